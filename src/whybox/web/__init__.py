"""What a local web server needs: who may ask it, what it accepts, what it answers. Its packages are imported when used."""
