"""Data sets: one file each; `scenes` is generated, `coco` reads any folder in COCO's format."""
