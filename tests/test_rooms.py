"""Who may import whom, read from the syntax trees: the arrows of docs/design.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lit_cascade"

# Room: the rooms below it that it may import. `errors` is open to all.
ARROWS = {
    "options": set(),
    "utilities": set(),
    "core": {"options", "utilities"},  # of these those in USED_BY_CORE
    "records": {"core", "options", "utilities"},
    "live": {"core", "options", "utilities"},
    "models": {"live", "core", "options", "utilities"},
    "data": {"live", "records", "core", "options", "utilities"},
    "analysis": {"records", "core", "options", "utilities"},
    "lit": {"analysis", "models", "data", "records", "live", "core", "options", "utilities"},
}
ARROWS["report"] = ARROWS["lit"] | {"lit"}
# engines stand at the edge: nothing but the command line imports them
ARROWS["serve"] = {"models", "live", "core", "options", "utilities"}
ARROWS["export"] = ARROWS["serve"]
ARROWS["cli"] = ARROWS["report"] | {"report", "serve", "export"}

USED_BY_CORE = {"drawing", "files", "mapped", "tabular", "units"}

# What each room may load from outside, beside the standard library, torch and numpy.
OUTSIDE = {
    "core": {"scipy"},
    "records": {"safetensors", "pyarrow", "yaml"},
    "live": set(),
    "analysis": {"scipy", "sklearn"},
    "models": {"safetensors", "timm", "torchvision", "transformers", "PIL"},
    "data": {
        "PIL",
        "datasets",
        "huggingface_hub",
        "lightning",
        "pyarrow",
        "sklearn",
        "torchvision",
        "transformers",
    },
    "lit": {"lightning", "pyarrow", "ray", "torchmetrics", "rich"},
    "report": {
        "altair",
        "huggingface_hub",
        "jinja2",
        "markupsafe",
        "matplotlib",
        "rich",
        "vl_convert",
        "yaml",
    },
    "serve": {"PIL", "fastapi", "litserve", "prometheus_client", "ray", "starlette"},
    "export": {"onnx", "onnxruntime", "tokenizers"},
    "cli": {"jsonargparse", "lightning", "rich", "shtab", "yaml"},
    "utilities": {
        "PIL",
        "huggingface_hub",
        "matplotlib",
        "pandas",
        "safetensors",
        "timm",
        "torchvision",
        "yaml",
    },
    "errors": set(),
    "options": set(),
}
STANDARD = set(sys.stdlib_module_names)
FREE_OF_TORCH = {"errors", "options"}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module):
    """The room of a module of the package; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def exported(package):
    """The names that a package's `__init__` imports: a function may share its module's name."""
    body = tree_of(MODULES[package]).body
    return {name.name for node in body if isinstance(node, ast.ImportFrom) for name in node.names}


def imports(path, *, loaded=False):
    """(module, name) of all imports of a file, also those in functions.

    Args:
        path: of the file.
        loaded: whether to leave out what only type checkers import.
    """
    skipped = set()
    for node in ast.walk(tree_of(path)):
        if loaded and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(ast.walk(node))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((name.name, None) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                is_module = whole in MODULES and name.name not in exported(node.module)
                yield (whole, None) if is_module else (node.module, name.name)


def own(path):
    return [found for found in imports(path) if found[0].split(".")[0] == "lit_cascade"]


def test_only_four_files_stand_beside_the_rooms():
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        "__init__.py", "__main__.py", "errors.py", "options.py",
    }  # fmt: skip
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ARROWS) - {"options"}


def test_every_room_says_in_a_sentence_what_it_is_for():
    for path in PACKAGE.rglob("__init__.py"):
        purpose = ast.get_docstring(tree_of(path))
        assert purpose, path
        assert purpose.count("\n") == 0, path
        assert purpose.endswith("."), path


@pytest.mark.parametrize("room", ARROWS)
def test_rooms_import_only_rooms_below_them(room):
    allowed = ARROWS[room] | {room, "errors"}
    for module, path in MODULES.items():
        if room_of(module) != room:
            continue
        for imported, name in own(path):
            target = room_of(imported)
            if target is None:
                assert name == "__version__", f"{module} imports {name} from the package itself"
            else:
                assert target in allowed, f"{module} imports {imported}"


def test_core_uses_of_utilities_what_loads_nothing_heavy():
    used = {
        imported.removeprefix("lit_cascade.utilities."): module
        for module, path in MODULES.items()
        if room_of(module) == "core"
        for imported, _ in own(path)
        if room_of(imported) == "utilities"
    }
    assert set(used) == USED_BY_CORE
    assert used["files"] == "lit_cascade.core.policy"  # a policy saves itself


def test_core_loads_torch_numpy_and_scipy_alone():
    """Also with what it uses of utilities, which load pandas and matplotlib in functions only."""
    code = (
        "import sys, torch, numpy, scipy.stats, scipy.optimize, scipy.special\n"
        "before = set(sys.modules)\n"
        "import lit_cascade.core, lit_cascade.core.guarantee, lit_cascade.core.search\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"lit_cascade"}


def test_commands_over_records_load_nothing_that_runs_models():
    """Lightning alone takes longer to load than most of them to work."""
    modules = [f"lit_cascade.cli.{name}" for name in ("calibrate", "check", "search", "validate")]
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "datasets", "lightning", "lit_cascade.live", "pandas", "sklearn", "timm", "torchmetrics",
        "torchvision", "transformers", "triton",
    }  # fmt: skip
    assert not heavy & set(done.stdout.split())


def test_the_arrows_have_no_cycle():
    done = set()
    while len(done) < len(ARROWS):
        ready = {room for room, below in ARROWS.items() if room not in done and below <= done}
        assert ready, f"a cycle among {sorted(set(ARROWS) - done)}"
        done |= ready


@pytest.mark.parametrize("room", OUTSIDE)
def test_rooms_load_from_outside_only_what_is_theirs(room):
    allowed = OUTSIDE[room] | (set() if room in FREE_OF_TORCH else {"torch", "numpy"})
    for module, path in MODULES.items():
        if room_of(module) != room:
            continue
        for imported, _ in imports(path, loaded=True):
            top = imported.split(".")[0]
            if top != "lit_cascade" and top not in STANDARD:
                assert top in allowed, f"{module} imports {top}"


def test_rooms_are_imported_through_their_door():
    """Another room's names come from its `__init__`; `utilities` is imported by module.

    So is `records.arrays`, since it loads pyarrow, which few commands need, and `cli.configured`,
    since it loads torch, which help does without.
    """
    for module, path in MODULES.items():
        for imported, name in own(path):
            room = room_of(imported)
            if room in {None, room_of(module), "errors", "options", "utilities"}:
                continue
            door = MODULES[imported].name == "__init__.py" or imported.endswith(
                ("records.arrays", "cli.configured")
            )
            assert door, f"{module} imports {imported}"
            assert name is None or not name.startswith("_"), f"{module} imports {name}"


def test_no_module_imports_itself_by_way_of_others():
    edges = {}
    for module, path in MODULES.items():
        top = tree_of(path).body
        targets = {node.module for node in top if isinstance(node, ast.ImportFrom)}
        edges[module] = targets & set(MODULES) - {module}  # a package may import its own modules
    done = set()

    def visit(module, above):
        assert module not in above, f"a cycle: {' -> '.join([*above, module])}"
        if module not in done:
            for target in edges[module]:
                visit(target, [*above, module])
            done.add(module)

    for module in edges:
        visit(module, [])
