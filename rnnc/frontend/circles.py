"""Which values of a cell depend on each other in a circle: the strongly connected components of "needs"."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rnnc.frontend.scope import Binding


def circle_of(binding: Binding, needs: Callable[[Binding], Iterable[Binding]]) -> tuple[Binding, ...]:
    """The bindings that `binding` needs and that need it, itself included; kept in `Binding.circle` of all it needs.

    Tarjan's algorithm without recursion: each binding and each need is visited once, whatever is asked later.
    """
    if binding.circle is None:
        _find_circles(binding, needs)
    assert binding.circle is not None, "a visited binding has its circle"
    return binding.circle


def _find_circles(root: Binding, needs: Callable[[Binding], Iterable[Binding]]) -> None:
    number: dict[Binding, int] = {root: 0}
    lowest: dict[Binding, int] = {root: 0}
    open_: list[Binding] = [root]
    work = [(root, iter(needs(root)))]
    while work:
        here, rest = work[-1]
        for there in rest:
            if there.circle is not None:
                continue
            if there not in number:
                number[there] = lowest[there] = len(number)
                open_.append(there)
                work.append((there, iter(needs(there))))
                break
            lowest[here] = min(lowest[here], number[there])
        else:
            work.pop()
            if work:
                before = work[-1][0]
                lowest[before] = min(lowest[before], lowest[here])
            if lowest[here] == number[here]:
                at = open_.index(here) if open_[-1] is not here else len(open_) - 1
                members = tuple(open_[at:])
                del open_[at:]
                for member in members:
                    member.circle = members
