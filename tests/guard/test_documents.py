"""The documents: links lead somewhere, shown commands are accepted, and the reference says what the code says."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conditional_detr.cli.app import VERBS, app
from conditional_detr.cli.examples import EXAMPLES
from conditional_detr.cli.parsing import normalised

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)])
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    for link in LINK.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_are_accepted(document: Path):
    for block in SHELL.findall(document.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("cdetr "):
                accept(line)


@pytest.mark.parametrize("command", [command for commands in EXAMPLES.values() for command in commands])
def test_examples_of_the_help_are_accepted(command: str):
    accept(command)


def test_commands_in_images_and_manifests_are_accepted():
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    images = re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    serving = next(command for command in map(json.loads, images) if command[1] == "serve")
    commands = [serving]
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for document in yaml.safe_load_all(block):
            services = document.get("services", {}).values()
            pods = document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
            commands += [[*serving, *each["command"]] for each in services] + [[*serving, *each["args"]] for each in pods]
    assert len(commands) == 3  # also in the compose file and in the manifest
    for command in commands:
        accept(shlex.join(command))


def test_every_command_has_examples():
    assert set(VERBS) <= set(EXAMPLES)


def test_the_reference_is_up_to_date(tmp_path):
    names = ("reference/command-line.md", "reference/settings.md", "guide/serve.md")
    code = "import sys; from pathlib import Path; import generate_reference as g; g.write(Path('.'), Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT / "docs")
    for name in names:
        written = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == written, "run `make docs`"


def accept(command: str) -> None:
    tokens = shlex.split(re.sub(r"^(\w+=\S+ )+", "", command), comments=True)[1:]  # without variables of the environment
    if "--version" not in tokens:
        app.parse_args(normalised(tokens, VERBS), exit_on_error=False, print_error=False)
