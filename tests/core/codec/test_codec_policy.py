"""Which patterns are taken, what they reach, and what no pattern reaches."""

from __future__ import annotations

import codec_models as models
import pytest
from codec_support import blob, decode, pickled, roundtrip

from vineyard_client._codec.policy import policy_for
from vineyard_client.exceptions import UnsafeType


@pytest.mark.parametrize("pattern", ["*", "?*", "*.models.X", "my*.X", "[a-z]*", "", "Plain", ".x", "mypkg", 5, None])
def test_a_pattern_begins_with_a_package_spelt_out(pattern):
    with pytest.raises(UnsafeType, match="name of a package") as caught:
        blob(1, [pattern])
    assert "mypkg.models" in caught.value.hint


@pytest.mark.parametrize(
    "pattern",
    ["codec_models.Plain", "codec_models.*", "codec_models.Pl?in", "codec_models.[OP]lain", "codec_models.Pla*"],
)
def test_patterns_reach_a_class(pattern):
    assert roundtrip(models.Plain(a=1), pattern).a == 1


@pytest.mark.parametrize(
    "pattern", ["codec_models.plain", "codec_models.Plai", "codec_model.*", "codec_models.Plain.x"]
)
def test_patterns_do_not_reach_further_than_they_say(pattern):
    with pytest.raises(UnsafeType, match=r"codec_models\.Plain may not"):
        blob(models.Plain(), [pattern])


NEVER = [
    ("os", "system", "os.system"),
    ("os", "system", "os.*"),
    ("posix", "system", "posix.system"),
    ("builtins", "eval", "builtins.eval"),
    ("builtins", "exec", "builtins.*"),
    ("builtins", "getattr", "builtins.getattr"),
    ("builtins", "open", "builtins.open"),
    ("builtins", "type", "builtins.type"),
    ("subprocess", "Popen", "subprocess.Popen"),
    ("subprocess", "Popen", "subprocess.*"),
    ("importlib", "import_module", "importlib.import_module"),
    ("operator", "attrgetter", "operator.attrgetter"),
    ("operator", "methodcaller", "operator.methodcaller"),
    ("functools", "partial", "functools.partial"),
    ("functools", "reduce", "functools.reduce"),
    ("codecs", "encode", "codecs.encode"),
    ("_codecs", "encode", "_codecs.encode"),
    ("pickle", "loads", "pickle.loads"),
    ("_pickle", "loads", "_pickle.*"),
    ("marshal", "loads", "marshal.loads"),
    ("copyreg", "_reconstructor", "copyreg._reconstructor"),
    ("types", "FunctionType", "types.FunctionType"),
    ("ctypes", "CDLL", "ctypes.CDLL"),
    ("io", "FileIO", "io.FileIO"),
    ("tempfile", "NamedTemporaryFile", "tempfile.*"),
    ("code", "InteractiveInterpreter", "code.*"),
    ("pty", "spawn", "pty.spawn"),
    ("runpy", "run_path", "runpy.run_path"),
    ("sys", "setprofile", "sys.setprofile"),
    ("weakref", "finalize", "weakref.finalize"),
    ("threading", "Thread", "threading.Thread"),
    ("webbrowser", "open", "webbrowser.open"),
    ("shutil", "rmtree", "shutil.rmtree"),
    ("logging", "FileHandler", "logging.FileHandler"),
    ("vineyard_client.server", "EmbeddedServer", "vineyard_client.*"),
]


@pytest.mark.parametrize(("module", "name", "pattern"), NEVER)
@pytest.mark.parametrize("operation", ["CALL", "NAME", "NEW"])
def test_some_names_are_refused_whatever_the_pattern(module, name, pattern, operation):
    arguments = {"CALL": ((),), "NAME": (), "NEW": ((), {})}[operation]
    stream = pickled((operation, (module, name, *arguments)))
    with pytest.raises(UnsafeType, match="is never stored"):
        decode_stream(stream, pattern)
    with pytest.raises(UnsafeType):
        policy_for((pattern,)).find(module, name)


def decode_stream(stream: bytes, *allowed: str):
    from codec_support import blob_of

    return decode(blob_of(stream), allowed)


def test_what_a_module_imported_is_judged_by_what_it_is():
    """codec_models has imported Popen: that does not make it a class of codec_models."""
    policy = policy_for(("codec_models.*",))
    with pytest.raises(UnsafeType, match=r"what stands under that name is subprocess\.Popen|derives from subprocess"):
        policy.find("codec_models", "Popen")
    with pytest.raises(UnsafeType, match=r"neither a class nor a function"):
        policy.find("codec_models", "subprocess")


@pytest.mark.parametrize("name", ["subprocess.Popen", "Outer.Inner.__init__.__globals__", "Plain.__init__", "__name__"])
def test_only_classes_are_walked_through(name):
    with pytest.raises(UnsafeType):
        policy_for(("codec_models.*", f"codec_models.{name}" if "subprocess" in name else "codec_models.x")).find(
            "codec_models", name
        )


def test_a_class_that_runs_things_by_its_base_is_not_reached():
    policy = policy_for(("codec_models.*", "codec_models.Shell"))
    with pytest.raises(UnsafeType, match=r"derives from subprocess\.Popen"):
        policy.find("codec_models", "Shell")


def test_classes_of_python_need_their_exact_name():
    value = __import__("reprlib").Repr()
    with pytest.raises(UnsafeType, match="exact name"):
        blob(value, ["reprlib.*"])
    assert vars(roundtrip(value, "reprlib.Repr")) == vars(value)


def test_modules_are_imported_only_when_allowed(tmp_path, monkeypatch):
    (tmp_path / "codec_trap.py").write_text("raise SystemExit('imported')\nclass Trap: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    stream = pickled(("NAME", ("codec_trap", "Trap")))
    with pytest.raises(UnsafeType, match=r"codec_trap\.Trap"):
        decode_stream(stream, "codec_models.*")


def test_a_main_module_inside_a_package_is_never_imported():
    with pytest.raises(UnsafeType, match="never stored"):
        policy_for(("mypkg.*",)).find("mypkg.__main__", "X")


def test_a_missing_class_says_what_to_install():
    with pytest.raises(UnsafeType, match=r"mypkg\.models\.X .*cannot be found here") as caught:
        policy_for(("mypkg.*",)).find("mypkg.models", "X")
    assert "Install the package" in caught.value.hint


@pytest.mark.parametrize(("module", "name"), [(None, "x"), ("codec_models", 5), (b"os", "system"), (["os"], "system")])
def test_names_are_text(module, name):
    with pytest.raises(UnsafeType, match="not a name"):
        policy_for(("codec_models.*",)).find(module, name)
