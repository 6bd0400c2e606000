"""Tests see a program as if it were in their own process: its values, objects, changes and exceptions."""

from __future__ import annotations

import pytest

from sparsepo_dist.evaluation.sandbox.box import run
from sparsepo_dist.evaluation.sandbox.limits import Limits

LIMITS = Limits(wall_seconds=120.0)
VALUES = """
import collections, datetime, decimal, enum, fractions, math
import numpy as np
Point = collections.namedtuple('Point', 'x y')
class Colour(enum.IntEnum):
    RED = 1
def f(kind):
    return {
        'nested': [1, (2.5, None), {'a': {True}}, [[]]], 'large': 10 ** 5000, 'nan': math.nan, 'inf': -math.inf,
        'complex': 1 - 2j, 'bytes': b'\\0\\xff', 'text': 'h\\ud800\\u00e9', 'range': range(1, 9, 2),
        'named': Point(1, 2), 'enum': Colour.RED, 'counter': collections.Counter('aab'),
        'ordered': collections.OrderedDict(a=1),
        'frozen': frozenset({1}), 'decimal': decimal.Decimal('0.10'), 'fraction': fractions.Fraction(1, 3),
        'date': datetime.date(2024, 2, 29), 'scalar': np.float32(0.5), 'integer': np.int64(7), 'bool': np.bool_(True),
    }[kind]
"""
CHECKS = """
import datetime, decimal, fractions, math
assert f('nested') == [1, (2.5, None), {'a': {True}}, [[]]] and type(f('nested')[1]) is tuple
assert f('large') == 10 ** 5000 and math.isnan(f('nan')) and f('inf') == -math.inf
assert f('complex') == 1 - 2j and f('bytes') == b'\\0\\xff' and f('text') == 'h\\ud800\\u00e9'
assert f('range') == range(1, 9, 2) and f('named') == (1, 2) and f('enum') == 1
assert f('counter') == {'a': 2, 'b': 1} and f('ordered') == {'a': 1} and f('frozen') == {1}
assert f('decimal') == decimal.Decimal('0.1') and f('fraction') * 3 == 1 and f('date') > datetime.date(2024, 2, 28)
assert f('scalar') == 0.5 and f('integer') == 7 and isinstance(f('integer'), int) and f('bool') is True
"""
OBJECTS = """
class Pair:
    def __init__(self, a, b=0):
        self.a, self.b = a, b
    def __eq__(self, other):
        return (self.a, self.b) == (other.a, other.b)
    def total(self):
        return self.a + self.b
class Odd(ValueError): pass
def longest(pairs): return max(p.b - p.a for p in pairs)
def squares(n): return (i * i for i in range(n))
def adder(n): return lambda x: x + n
def grow(values, table, names):
    values[0] = 9; values.append(4); table['k'] = values; names.add('n')
def raises(kind): raise {'value': ValueError('bad'), 'odd': Odd(), 'key': KeyError('k'), 'stop': StopIteration}[kind]
def flip(p): return Pair(p.b, p.a)
sum = lambda a, b: a * b
"""
USES = """
p, q = Pair(1, b=5), Pair(2, 9)
assert longest([p, q]) == 7 and p.total() == 6 and isinstance(p, Pair) and not isinstance(3, Pair)
p.a = 3
assert p.a == 3 and flip(p) == Pair(5, 3) and not flip(p) == p and p != 3
assert list(squares(4)) == [0, 1, 4, 9] and next(iter(squares(2))) == 0 and set(squares(3)) == {0, 1, 4}
assert adder(2)(3) == 5 and sum([1, 2]) == 3
values, table, names = [1, 2], {}, set()
grow(values, table, names)
assert values == [9, 2, 4] and table == {'k': [9, 2, 4]} and names == {'n'}
for kind, error in (('value', ValueError), ('odd', ValueError), ('key', KeyError), ('stop', StopIteration)):
    try:
        raises(kind)
    except error:
        continue
    assert False, kind
"""


@pytest.mark.parametrize(("program", "tests"), [(VALUES, CHECKS), (OBJECTS, USES)], ids=["values", "objects"])
def test_right_programs_look_the_same(program: str, tests: str) -> None:
    assert run(program, tests, LIMITS) == ("passed", "")


def test_a_function_with_a_builtins_name_is_meant_where_it_is_all_that_is_tested() -> None:
    assert run("def sum(a, b): return a * b", "assert sum(3, 4) == 12", LIMITS).passed
    assert run("def f(x): return x\ndef sum(x): return 6", "assert sum([f(1), f(2)]) == 3", LIMITS).passed


def test_what_cannot_be_handed_over_is_said_as_a_failure() -> None:
    assert run("def f(x): return x", "assert f(object())", LIMITS) == ("failed", "TypeError")
    assert run("def f():\n    x = []\n    x.append(x)\n    return x", "assert f()", LIMITS) == (
        "failed",
        "RecursionError",
    )
