"""libwanrt reads and refuses the engine folders that Python reads and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from brokenmanifests import BROKEN, NOT_RUN, NOT_RUN_NATIVELY, SOUND, SOUND_PLANS
from cpphosts import BUILDS, host, needs_tools
from tinyengines import Tiny, make_engine, read_raw

pytestmark = needs_tools

# what C++'s JSON parser finds out by itself it says in its own words
OTHER_WORDS = dict.fromkeys(("binary", "NaN", "infinity", "overflow"), "is not JSON")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return make_engine(tmp_path / "engine", Tiny())


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("case", BROKEN)
def test_broken_manifests_are_refused_in_one_line(engine: Path, case: str, build: str) -> None:
    apply, message = BROKEN[case]
    apply(engine, read_raw(engine))
    done = host(build, "--info", engine)
    error, *rest = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith("error: ")
    assert OTHER_WORDS.get(case, message) in error
    assert all(line.startswith("hint: ") for line in rest)
    assert len(rest) <= 1
    assert not done.stdout


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("case", SOUND)
def test_sound_manifests_are_read(engine: Path, case: str, build: str) -> None:
    SOUND[case](engine, read_raw(engine))
    done = host(build, "--info", engine)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny-full: full fp32, 64x32x1, 6 tokens per forward")


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("case", SOUND_PLANS)
def test_sound_plans_are_read(engine: Path, case: str, build: str) -> None:
    SOUND_PLANS[case](engine, read_raw(engine))
    done = host(build, "--info", engine)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("case", NOT_RUN | NOT_RUN_NATIVELY)
def test_what_is_not_built_yet_is_read_and_refused_by_name(
    engine: Path, case: str, build: str
) -> None:
    apply, message = (NOT_RUN | NOT_RUN_NATIVELY)[case]
    apply(engine, read_raw(engine))
    told = host(build, "--info", engine)
    assert (told.returncode, told.stderr) == (0, "")
    done = host(build, engine)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {message}\nhint: upgrade libwanrt\n"
