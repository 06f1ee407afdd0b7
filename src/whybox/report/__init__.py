"""Overlays of heat maps, the self-contained HTML pages, tables and figures."""
