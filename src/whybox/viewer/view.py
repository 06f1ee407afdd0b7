"""The viewer from end to end: models and images behind a server, until it is stopped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from whybox.model import Model
from whybox.viewer.desk import TRACES, Desk
from whybox.viewer.images import Images, Named
from whybox.viewer.jobs import Worker
from whybox.viewer.routes import viewer_app
from whybox.web.place import Place
from whybox.web.serving import serve, serving


def view(
    models: Mapping[str, Model],
    named: Named,
    place: Place,
    *,
    texts: Sequence[str] = (),
    most_bytes: int = TRACES,
    other_port: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until Ctrl+C.

    Args:
        models: The models, by the names that the page shows.
        named: The images that may be shown.
        place: Where to listen.
        texts: What models that read texts are asked at first.
        most_bytes: How much memory the passes may take that are kept.
        other_port: Whether any free port will do where this one is taken.
        say: Called with the address, once connections are accepted.
    """
    desk, worker = Desk(models, Images(named), texts=texts, most_bytes=most_bytes), Worker()
    try:
        serve(lambda where: viewer_app(desk, worker, where), place, other_port=other_port, say=say)
    finally:
        worker.close()


@contextmanager
def viewing(models: Mapping[str, Model], named: Named, *, texts: Sequence[str] = ()) -> Iterator[str]:
    """Serve on a free port in a thread, while the block runs.

    Args:
        models: As for `view`.
        named: As for `view`.
        texts: As for `view`.

    Yields:
        The address.
    """
    desk, worker = Desk(models, Images(named), texts=texts), Worker()
    try:
        with serving(lambda place: viewer_app(desk, worker, place)) as address:
            yield address
    finally:
        worker.close()
