"""Data sets: one file each, known by its PREFIX; `scenes` is generated, `coco` reads any folder in COCO's format."""
