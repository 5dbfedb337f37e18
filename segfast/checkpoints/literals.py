"""Settings written as Python, such as MMSegmentation's, read as plain values: nothing in them is executed.

Names that were assigned before, `dict(…)` calls and arithmetic of numbers are understood; any other expression becomes an
`Opaque`, which is an error only for who needs its value.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from segfast.values import is_number

_LONGEST = 8 << 20  # characters
_MOST = 65536  # entries of a repeated list
_CALLS: Mapping[str, Callable[..., object]] = MappingProxyType(
    {"dict": dict, "ConfigDict": dict, "list": list, "tuple": tuple}
)
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
    }
)


class Opaque:
    """An expression whose value is not known without running it."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def read(text: str) -> dict[str, object]:
    """The values that the assignments of a Python text give to names.

    Raises:
        ValueError: it is no Python of that kind; the message says where.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it is {len(text)} characters long")
    # Older versions of MMCV put the path of each file before its text.
    text = re.sub(r"^\S+\.py$", "", text, flags=re.MULTILINE)
    try:
        body = ast.parse(text).body
        values: dict[str, object] = {}
        for statement in body:
            _take(statement, values)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} is no Python") from None
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deeply") from None
    return values


def _take(statement: ast.stmt, values: dict[str, object]) -> None:
    """Understand one statement, or refuse what could change values unseen."""
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass)) or _is_text(statement):
        return
    target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    if not isinstance(statement, ast.Assign) or not isinstance(target, ast.Name):
        raise ValueError(f"line {statement.lineno} is no plain assignment")
    value = _value(statement.value, values)
    if isinstance(value, Mapping) and isinstance(values.get(target.id), Mapping):
        raise ValueError(
            f"line {statement.lineno} gives {target.id} a second value"
        )  # bases and heirs are merged elsewhere
    values[target.id] = value


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _value(node: ast.expr, names: Mapping[str, object]) -> object:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.List() | ast.Tuple() if not any(isinstance(item, ast.Starred) for item in node.elts):
            items = [_value(item, names) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
        case ast.Dict():
            keys = [key and _value(key, names) for key in node.keys]
            return _dictionary(node, list(zip(keys, (_value(value, names) for value in node.values), strict=True)))
        case ast.UnaryOp(op=ast.USub()):
            operand = _value(node.operand, names)
            return -operand if is_number(operand) else Opaque(ast.unparse(node))
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            return _computed(node, _value(node.left, names), _value(node.right, names))
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            return _called(_CALLS[name], node, names)
    return Opaque(ast.unparse(node))


def _dictionary(node: ast.expr, pairs: list[tuple[object, object]]) -> object:
    """A dictionary of pairs; one without a key is another dictionary that goes into it."""
    values: dict[object, object] = {}
    for key, value in pairs:
        if key is None and isinstance(value, Mapping):
            values |= value
        elif isinstance(key, (str, int, float)):
            values[key] = value
        else:
            return Opaque(ast.unparse(node))
    return values


def _called(kind: Callable[..., object], node: ast.Call, names: Mapping[str, object]) -> object:
    """`dict(a=1, **b)`, or `tuple([1, 2])` and the like."""
    given = [_value(argument, names) for argument in node.args]
    if any(isinstance(value, Opaque) for value in given) or len(given) > 1:
        return Opaque(ast.unparse(node))
    if kind is not dict:
        fits = len(given) == 1 and isinstance(given[0], (list, tuple)) and not node.keywords
        return kind(given[0]) if fits else Opaque(ast.unparse(node))
    pairs: list[tuple[object, object]] = [(None, value) for value in given]
    return _dictionary(node, pairs + [(keyword.arg, _value(keyword.value, names)) for keyword in node.keywords])


def _computed(node: ast.BinOp, left: object, right: object) -> object:
    """Arithmetic of numbers, and lists that are joined or repeated."""
    length = 0
    match node.op, left, right:
        case ast.Add(), list() | tuple(), list() | tuple() if type(left) is type(right):
            length = len(left) + len(right)
        case ast.Mult(), list() | tuple(), int():
            length = len(left) * right
        case _ if not (is_number(left) and is_number(right)):
            return Opaque(ast.unparse(node))
    if length > _MOST:
        return Opaque(ast.unparse(node))
    try:
        value = _ARITHMETIC[type(node.op)](left, right)
    except (ArithmeticError, ValueError):
        return Opaque(ast.unparse(node))
    return value if isinstance(value, (list, tuple)) or is_number(value) else Opaque(ast.unparse(node))
