"""One pass is kept while somebody asks on, and none outside."""

import pytest

from whybox.ops.kept_pass import KeptPass, keeping, kept_or_made


def test_the_last_pass_alone_is_kept_and_only_where_it_is_wanted():
    kept, made = KeptPass(), []
    # Equal, and not the same.
    first, second = [0], [0]

    def ask(owner, key):
        return kept_or_made(owner, key, lambda: made.append(key) or len(made))

    assert [ask(first, "a"), ask(first, "a")] == [1, 2]
    with keeping(kept):
        assert [ask(first, "a"), ask(first, "a"), ask(first, "b"), ask(first, "b")] == [3, 3, 4, 4]
        assert [ask(second, "b"), ask(first, "b")] == [5, 6]
    with keeping(kept):
        assert ask(first, "b") == 6
    assert ask(first, "b") == 7


def test_a_pass_that_fails_is_not_kept():
    kept, owner = KeptPass(), object()
    with keeping(kept), pytest.raises(ZeroDivisionError):
        kept_or_made(owner, "a", lambda: 1 // 0)
    with keeping(kept):
        assert kept_or_made(owner, "a", lambda: 2) == 2
