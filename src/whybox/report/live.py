"""The page of explained images, asked live of a server: the same view, whose maps come when they are looked at."""

from whybox.report.document import render, texts_of


def live_page() -> str:
    """The page as HTML; it takes its style and its script from "live.css" and "live.js" beside it."""
    return render("live.html", styles="page.css", script="heat.js", live=True, images=None, remark="")


def live_style() -> str:
    """Its style sheet."""
    return texts_of("page.css", "live.css")


def live_script() -> str:
    """Its script."""
    view = ("heat.js", "shapes.js", "saying.js", "closeups.js", "view.js")
    return texts_of(*view, "film.js", "changes.js", "asking.js", "drawing.js", "missed.js", "taking.js", "beside.js", "live.js")
