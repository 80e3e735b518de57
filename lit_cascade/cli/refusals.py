"""What jsonargparse refuses, in this project's words: the option, what was expected, what is near.

jsonargparse reports through `ArgumentParser.error`, also from the parsers that it makes for the
classes in a config. Each of them knows its own options and types, so each turns its message into a
`Refusal`; the outer ones find it in their message and add where it is.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from argparse import SUPPRESS
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser, get_loader, set_loader
from jsonargparse.typing import register_type

from lit_cascade.cli.help import HelpFormatter
from lit_cascade.errors import UsageError, listed, nearest
from lit_cascade.options import Share
from lit_cascade.utilities.files import load_yaml
from lit_cascade.utilities.tabular import shortened

_MARK = re.compile("\x02([0-9a-f]+)\x03")
_KEY = re.compile(r'Parser key "([^"]+)"')
_VALUE = re.compile(r"(?:Given value|Got value): (.*)")
_NESTED = re.compile(r"NestedArg\(key='([^']*)', val='(.*)'\)$")
_OWNER = re.compile(r"given class_path '([^']+)'|class_path='([^']+)'")
_UNKNOWN = re.compile(r"(?:Option|Group '([^']+)' does not accept option) '([^']+)'")
_CLASS = re.compile(r"class_path='?([^',)]+)|given class_path '([^']+)'|import path string: (\S+)")
_FUNCTION = re.compile(r"Expected '([^']+)' to be a function that returns (?:<class ')?(\w+)")
_NO_CLASS = re.compile(r"'([^']+)' to be a subclass|path (\S+) does not correspond to a subclass")
_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a text", "texts"),
    Share: ("a share such as 0.05 or 5%", "shares such as 0.05 or 5%"),
}
"""One value and several of a type."""


class Refusal(NamedTuple):
    """Why an option is refused.

    Attributes:
        key: the option without dashes.
        text: what is wrong; `{owner}` stands for the class that has the option.
        value: what was given, as text; None if that is not the point.
    """

    key: str
    text: str
    value: str | None = None

    def marked(self) -> str:
        """The refusal as text that jsonargparse passes on unchanged."""
        return f"\x02{json.dumps(self).encode().hex()}\x03"

    @classmethod
    def within(cls, message: str) -> Refusal | None:
        """The refusal that a message holds."""
        found = _MARK.search(message)
        return None if found is None else cls(*json.loads(bytes.fromhex(found[1])))


class Forgiving(ArgumentParser):
    """A parser whose errors name the option, what it expects, and what the user may have meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        defaults = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **{**defaults, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an `ArgumentError` that holds a refusal."""
        raise ArgumentError(None, _refusal(self, message).marked()) from ex


def refusal_message(
    error: ArgumentError, typed: Mapping[str, str], configured: Mapping[str, str]
) -> str:
    """The message for a refusal.

    Args:
        error: of a `Forgiving` parser.
        typed: options of the command line, by name without dashes.
        configured: values of the configs, by dotted key.
    """
    refusal = Refusal.within(str(error))
    if refusal is None:
        return re.sub(r"\s*\n\s*", " ", str(error))
    if not refusal.key:
        return refusal.text
    found = _like(refusal, typed) or _like(refusal, configured) or refusal.key
    return f"--{found}: {refusal.text}"


def _like(refusal: Refusal, keys: Mapping[str, str]) -> str | None:
    """The key as the user spelt it: one that leaves out init_args, or names a stage."""
    parts = _parts(refusal.key)
    for key, value in keys.items():
        rest = iter(spelt := _parts(key))
        same_ends = (spelt[0], spelt[-1]) == (parts[0], parts[-1])
        same_value = refusal.value in {None, value}
        if same_ends and same_value and all(part in rest for part in parts):
            return key
    return None


def _parts(key: str) -> list[str]:
    return [part for part in key.rstrip("+").split(".") if part != "init_args"]


def _refusal(parser: ArgumentParser, message: str) -> Refusal:
    """What a parser refuses."""
    inner, key = Refusal.within(message), _KEY.search(message)
    unknown = _UNKNOWN.search(message)
    needed = re.match(r"the following arguments are required: (.*)", message)
    valueless = re.match(r"argument (?:\S+/)?--(\S+): expected one argument", message)
    helped = re.match(r"--(\S+)\.help: ", message)
    if inner is not None:
        return _outer(parser, inner, key[1] if key else "", message)
    if message.startswith("unrecognized arguments: "):
        refusal = _unrecognized(parser, message.partition(": ")[2])
    elif unknown:
        refusal = _unknown(parser, ".".join(part for part in unknown.groups() if part))
    elif named := key or helped:
        refusal = _of_another_type(parser, named[1], message)
    elif needed:
        refusal = _missing(parser, needed[1].split(", "))
    elif valueless:
        expected = _expected(_type_of(parser, valueless[1]))
        refusal = Refusal(valueless[1], f"expected {expected}.")
    else:
        refusal = Refusal("", re.sub(r"\s*\n\s*", " ", message.strip().strip("'\"")))
    return refusal


def _outer(parser: ArgumentParser, inner: Refusal, key: str, message: str) -> Refusal:
    """The refusal of an object's parser, from the parser of the object that has it."""
    owner = _OWNER.findall(message[: message.index("\x02")]) or _OWNER.findall(message)
    name = "".join(owner[-1]).rpartition(".")[2] if owner else "it"
    if name in {base.__name__ for base in _bases(_type_of(parser, key)) if base.__subclasses__()}:
        return Refusal(
            f"{key}.{inner.key}", f"first name a class: --{key} CLASS; see --{key}.help."
        )
    joined = ".".join(part for part in (key, inner.key) if part)
    return Refusal(joined, inner.text.replace("{owner}", name), inner.value)


def _missing(parser: ArgumentParser, names: Sequence[str]) -> Refusal:
    if getattr(parser, "_inner_parser", False):
        return Refusal("", f"{{owner}} needs {' and '.join(names)}.")
    described = [name for name in names if name.split(".")[0] in {"model", "data"}]
    how = ", which a config describes (--config)" if described else ""
    return Refusal("", f"missing: {', '.join(f'--{name}' for name in names)}{how}.")


# Unknown options


def options_of(parser: ArgumentParser) -> list[str]:
    """The options that a parser has, without dashes."""
    return [
        action.dest
        for action in parser._actions  # noqa: SLF001 - argparse has no other list
        if action.option_strings
        and action.help != SUPPRESS
        and action.dest != "help"
        and not hasattr(action, "target")  # of a link, which gives the value
    ]


def _unrecognized(parser: ArgumentParser, words: str) -> Refusal:
    word = next((word for word in words.split() if word.startswith("-")), None)
    if word is None:
        return Refusal("", f"the word {words.split(maxsplit=1)[0]!r} belongs to no option.")
    return _unknown(parser, word.lstrip("-").partition("=")[0])


def _unknown(parser: ArgumentParser, key: str) -> Refusal:
    """An option that there is none of, with those that are near."""
    known = [one for one in options_of(parser) if not one.endswith(".help")]
    parts = key.split(".")
    depth = next(
        n for n in range(len(parts)) if n + 1 == len(parts) or not _has(known, parts[: n + 1])
    )
    key, group = ".".join(parts[: depth + 1]), ".".join(parts[:depth])
    siblings = _siblings(known, group)
    near = [one for one in known if one.endswith(f".{parts[-1]}")]
    near = near or [*_of_objects(parser, parts[-1])] if depth == 0 else near
    near = near or [
        f"{group}.{one}".lstrip(".") for one in nearest(parts[depth], siblings, like=0.6)
    ]
    inner = getattr(parser, "_inner_parser", False)
    text = "{owner} has no such option." if inner else "there is no such option."
    dashes = "" if inner else "--"
    if near:
        text += f" Did you mean {dashes}{near[0]}?"
    where = "It has" if inner else f"--{group} has" if group else "Options"
    some = listed(siblings) or ", ".join(f"{dashes}{one}" for one in near[1:])
    return Refusal(key, text + (f"\n{where}: {some}." if some else ""))


def _of_objects(parser: ArgumentParser, name: str) -> Iterator[str]:
    """Options of this name that some object of a config may have, such as `data.batch_size`."""
    for action in parser._actions:  # noqa: SLF001 - as above
        if action.dest.endswith(".help"):
            continue
        for one in _subclasses(_bases(getattr(action, "_typehint", None))):
            if name in inspect.signature(one.__init__).parameters:  # type: ignore[misc]
                yield f"{action.dest}.{name}"
                break


def _has(known: Iterable[str], parts: Sequence[str]) -> bool:
    name = ".".join(parts)
    return any(one == name or one.startswith(f"{name}.") for one in known)


def _siblings(known: Iterable[str], group: str) -> list[str]:
    """The names directly below a group of options."""
    start = f"{group}." if group else ""
    below = (one.removeprefix(start) for one in known if one.startswith(start))
    return list(dict.fromkeys(name.partition(".")[0] for name in below))


# Values of another type


def _type_of(parser: ArgumentParser, key: str) -> Any:
    for action in parser._actions:  # noqa: SLF001 - as above
        if action.dest == key:
            return getattr(action, "_typehint", action.type)
    return None


def _of_another_type(parser: ArgumentParser, key: str, message: str) -> Refusal:
    """A value that an option does not take."""
    kind = _type_of(parser, key)
    values = [value.strip().rstrip(".") for value in _VALUE.findall(message)]
    value = values[-1] if values else None
    nested = _NESTED.match(value or "")
    if nested:
        key, value = f"{key}.{nested[1]}", nested[2]
        kind = next((get_args(one)[1] for one in _kinds(kind) if get_origin(one) is dict), kind)
    bases = list(_bases(kind))
    if bases:
        return Refusal(key, _of_no_class(bases, kind, message, value), None)
    return Refusal(key, f"expected {_expected(kind)}, got {value!r}.", value)


def _kinds(kind: Any) -> Iterator[Any]:
    """The members of a union, without None."""
    for one in get_args(kind) if get_origin(kind) in {Union, types.UnionType} else [kind]:
        if one is not type(None):
            yield one


def _bases(kind: Any) -> Iterator[type]:
    """Classes of which an option takes a subclass."""
    for one in _kinds(kind):
        if get_origin(one) is Callable:
            yield from _bases(get_args(one)[-1])
        elif inspect.isclass(one) and get_origin(one) is None:
            if one.__module__ != "builtins" and one is not Share:
                yield one
        elif get_origin(one) is not None and get_origin(one) is not Literal:
            for part in get_args(one):
                yield from _bases(part)


def _expected(kind: Any, *, several: bool = False) -> str:
    """A type in words."""
    words = []
    for one in _kinds(kind):
        origin, parts = get_origin(one), get_args(one)
        if origin is Literal:
            words += [str(part) for part in parts]
        elif origin is dict:
            words.append(f"{_expected(parts[1], several=True)} by name, such as {{small: 0.9}}")
        elif origin is Callable:
            words.append(f"a class or function that gives {_expected(parts[-1])}")
        elif origin is not None and parts:
            words.append(f"a list of {_expected(parts[0], several=True)}")
        else:
            name = getattr(one, "__name__", "value")
            words.append(_WORDS.get(one, (f"a {name}", f"{name}s"))[several])
    words = list(dict.fromkeys(words)) or ["a value"]
    return ", ".join(words[:-1]) + " or " * (len(words) > 1) + words[-1]


# Classes


def _of_no_class(bases: Sequence[type], kind: Any, message: str, value: str | None) -> str:
    """Why a value describes no object of a class."""
    base = bases[0].__name__
    module = re.search(r"No module named '([^']+)'", message)
    if module:
        return f"there is no module {module[1]!r}, neither installed nor in the working directory."
    function = _FUNCTION.search(message)
    if function:
        name = function[1].rsplit(".")[-1]
        return (
            f"{function[1]} must be a function without arguments whose return type is annotated: "
            f"def {name}() -> {function[2]}."
        )
    other = _NO_CLASS.search(message)
    if other:
        return f"{other[1] or other[2]} is no {base}."
    named = _CLASS.search(message)
    name = next((part for part in named.groups() if part), "") if named else value or ""
    owner, dot, last = name.rpartition(".")
    there = _names_in(owner, bases) if dot else {one.__name__: True for one in _subclasses(bases)}
    if there.get(last) is False:
        return f"{name} is no {base}."
    if last and last not in there:
        known = [one for one, suits in there.items() if suits]
        near = nearest(last, known, like=0.6)
        where = f"{owner} has no {last!r}" if dot else f"there is no class {name!r}"
        hint = f" Did you mean {near[0]}?" if near else ""
        some = listed(sorted(known)) or ", ".join(nearest(last, known, like=0.8)[1:])
        return f"{where}.{hint}" + (f"\nClasses derived from {base}: {some}." if some else "")
    return f"expected {_expected(kind)}, got {value!r}."


def _names_in(module: str, bases: Sequence[type]) -> dict[str, bool]:
    """Names of classes in a module, and whether each is derived from one of the bases."""
    try:
        there = vars(import_module(module))
    except ImportError:
        return {}
    return {
        name: issubclass(one, tuple(bases))
        for name, one in there.items()
        if inspect.isclass(one) and one not in bases and _for_users(one)
    }


def _for_users(kind: type) -> bool:
    """Whether a class is more than a part of another one's machinery."""
    return not any(base.__name__ == "_PositionedData" for base in kind.__bases__)


def _subclasses(bases: Iterable[type]) -> Iterator[type]:
    for base in bases:
        one: type
        for one in base.__subclasses__():
            if not one.__name__.startswith("_") and not inspect.isabstract(one) and _for_users(one):
                yield one
            yield from _subclasses((one,))


def _load(text: str) -> Any:
    """YAML as jsonargparse reads it, also from files that a config or an option names."""
    if "*" in text:
        try:
            load_yaml(text)
        except yaml.MarkedYAMLError:  # no YAML: the type of the option decides what to do
            raise
        except yaml.YAMLError as error:
            raise UsageError(f"the YAML {shortened(text)!r} cannot be read: {error}.") from error
    return _LOAD(text)


_LOAD = get_loader("yaml")
set_loader("yaml", _load, exceptions=(yaml.YAMLError,))


def _share(value: Any) -> Share:
    try:
        return Share(value)
    except UsageError as error:
        raise ValueError(Refusal("", str(error), str(value)).marked()) from error


register_type(Share, serializer=float, deserializer=_share)
