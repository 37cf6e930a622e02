"""`grad(loss, S)`: the gradient of a scalar with respect to a state, as ordinary nodes.

A step of gradient descent on a loss is then the recurrence that it is: with the loss 0.5 |S^T k - v|^2, the update
`S <- S - beta * grad(loss, S)` has the nodes of the delta rule, S - beta k (S^T k - v)^T.
"""

from __future__ import annotations

from rnnc.frontend import ast
from rnnc.frontend.calls import Bound, Function, define
from rnnc.frontend.expressions import evaluate
from rnnc.frontend.functions import argument_node
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.values import ERROR, ErrorValue, Tensor, Value
from rnnc.ir.autodiff import propagate
from rnnc.ir.graph import NodeId


def _grad(c: Lowering, bound: Bound) -> Value:
    """The gradient has the state's type.  Of a complex state it is the conjugate of d loss / d z, as in PyTorch."""
    loss = argument_node(c, bound, "loss", ())
    state = _state(c, bound)
    if loss is None or state is None or not _scalar(c, bound, loss, state):
        return ERROR
    type_ = c.b.type(state)
    one = c.b.broadcast_to(c.b.const(1), (), type_.per)
    found = propagate(c.b, tuple(c.b.nodes), {loss: one}, (state,)).get(state)
    if found is None:
        text = c.text_of(bound["state"])
        return c.error("E0204", f"this does not change with `{text}`: its gradient is zero", bound["loss"].span)
    return Tensor(c.b.broadcast_to(found, type_.shape, type_.per))


def _state(c: Lowering, bound: Bound) -> NodeId | None:
    """The node of the state (in a `substep`, of its value after the last round)."""
    expr = bound["state"]
    value = evaluate(c, expr, bound.context)
    if isinstance(value, ErrorValue):
        return None
    if isinstance(value, Tensor) and isinstance(expr, ast.Name):
        node = c.b.nodes[value.node]
        if node.op == "state" or node.id in c.state_values:
            return node.id
        if node.op == "merge" and c.b.nodes[node.args[0]].op == "state":
            c.error("E0207", f"`grad` stands in the `per` block of its state `{expr.id}`", expr.span)
            return None
    message = f"`grad` is taken with respect to a state, and `{c.text_of(expr)}` is none"
    help_ = "use the value before the step, without the prime" if isinstance(expr, ast.Name) and expr.primed else ""
    c.error("E0204", message, expr.span, help=help_)
    return None


def _scalar(c: Lowering, bound: Bound, loss: NodeId, state: NodeId) -> bool:
    """Whether the loss is one real number (in each block of the state); reported when it is not."""
    type_ = c.b.type(loss)
    described = c.described(bound["loss"], Tensor(loss))
    if type_.rank != 0:
        c.error("E0203", "`grad` needs a scalar", bound["loss"].span, label=described, help="for example `sum(...)`")
    elif type_.dtype != "real":
        c.error("E0204", "`grad` needs a real number", bound["loss"].span, label=described)
    elif len(type_.per) > len(c.b.type(state).per):
        message = "this has a value for each block, and the state has one for all"
        c.error("E0207", message, bound["loss"].span, help="take the `sum` over the blocks outside of them")
    else:
        return True
    return False


define(Function(name="grad", run=_grad, params=("loss", "state"), required=2))
