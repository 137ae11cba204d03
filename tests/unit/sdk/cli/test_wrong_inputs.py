"""What people mistype over all commands, through the program's own entry: the exit code, and one line that names what is wrong and
what to do. Files and options of trainings are in `test_bad_inputs.py`, broken folders in `tests/e2e/test_bad_input.py`.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small import write_adapter, write_base

from sdk.cli import main
from sdk.client import Client

FILES = {
    "rows.jsonl": '{"prompt": "a", "completion": "b"}\n' * 4,
    "held.jsonl": '{"prompt": "c", "completion": "d"}\n' * 4,
    "unknown.yaml": "alias: production\nrequre: []\n",
    "few.yaml": "alias: production\nrequire:\n- data: held\n  min_rows: 1\n  metrics: {loss: {at_most: 1}}\n",
    "nothing.yaml": "alias: production\nrequire:\n- data: nothing\n  metrics: {loss: {at_most: 1}}\n",
    "text.yaml": "just text",
}

#: Exit code, what is typed, and what the line has.
TABLE = """
2 | show code-review@v1 --format xml                        | --format can't be 'xml'; table, json
2 | versions                                                | NAME; adapterctl versions --help
3 | versions nope                                           | no adapter 'nope'; adapterctl list
2 | versions code-review --limit 3                          | '--limit'; adapterctl versions --help
2 | list --namespace "A B"                                  | 'A B' is not a namespace
2 | list --cursor x                                         | '--cursor'
2 | search "rank>"                                          | column 6; rank >= 8
2 | search "rnk=8"                                          | 'rnk'; 'rank'
2 | search "rank=eight"                                     | 'eight'; whole number
2 | search "eval[].loss<1"                                  | column 6; eval[heldout.jsonl].loss
2 | search "rank=8" --sort size                             | 'size'; -created
2 | search "rank=8" --sort loss                             | --sort can't be 'loss'; eval[heldout.jsonl].loss
2 | search "tag:"                                           | 'tag:'; tag[KEY]
2 | search --limit 0                                        | --limit can't be 0
3 | lineage nope                                            | no adapter 'nope'
2 | lineage code-review@v1 --depth 0                        | --depth can't be 0; from 1 to 32
2 | lineage code-review@v1 --format dot                     | --format can't be 'dot'
2 | diff code-review@v1                                     | B is missing
3 | diff code-review@v1 nope@v1                             | no adapter 'nope'
3 | diff code-review@v1 code-review@v2                      | code-review@v2; adapterctl versions code-review
2 | copy code-review@v1                                     | NEW is missing
2 | copy code-review@v1 Bad/Name                            | 'Bad/Name'; write 'bad/name'
3 | copy nope@v1 new                                        | no adapter 'nope'
2 | annotate code-review@v1                                 | --description, --tag
2 | annotate code-review@v1 --tag "a b"                     | 'a b' is not a tag; key=value
3 | annotate code-review@v9 --tag a=b                       | code-review@v9
2 | archive code-review                                     | code-review@v3; --all-versions
3 | archive nope@v1                                         | no adapter 'nope'
2 | delete code-review                                      | code-review@v3; --all-versions
2 | delete code-review@v1                                   | --yes
3 | delete nope@v1 --yes                                    | no adapter 'nope'
4 | release code-review@v1                                  | code-review@v1 is ready
3 | release nope                                            | no adapter 'nope'
2 | retention code-review                                   | 'code-review'
2 | retention set code-review --keep-last 0                 | --keep-last can't be 0
3 | retention show nope                                     | no adapter 'nope'
3 | verify nope                                             | no adapter 'nope'
3 | verify code-review@v1 --probe --base ./none             | no folder none; base
2 | sign code-review@v1                                     | --key; ADAPTERCTL_SIGNING_KEY
3 | sign code-review@v1 --key none.pem                      | no key none.pem
2 | sign code-review@v1 --key rows.jsonl                    | rows.jsonl is not a private key; openssl
2 | eval                                                    | REFS; adapterctl eval --help
2 | eval code-review@v1                                     | --data is missing
3 | eval code-review@v1 --data none.jsonl                   | 'none.jsonl'; adapterctl data list
3 | eval nope@v1 --data held.jsonl                          | no adapter 'nope'
2 | eval code-review@v1 --data held.jsonl --batch-size 0    | --batch-size can't be 0; from 1 to 4096
2 | eval code-review@v1 --data held.jsonl --metrics foo     | --metrics; 'foo'; rouge_l
2 | eval code-review@v1 --data held.jsonl --max-new-tokens -1 | --max-new-tokens can't be -1; from 1 to 8192
3 | eval base:nope --data held.jsonl                        | no base 'nope'; adapterctl base add
2 | eval code-review@v1 --data held.jsonl --tpu             | '--tpu'
3 | evals list nope                                         | no adapter 'nope'
3 | evals show nope                                         | 'nope'; adapterctl evals list
2 | compare code-review@v1                                  | 2 to 8
2 | compare code-review@v1 code-review@v1 --data held.jsonl | the same version
3 | compare code-review@v1 nope@v1 --data held.jsonl        | no adapter 'nope'
3 | compare code-review@v1 base:nope --data held            | no base 'nope'
2 | report                                                  | missing; adapterctl report --help
2 | report code-review@v1                                   | --output is missing
3 | report nope -o r.html                                   | no adapter 'nope'
2 | report code-review@v1 -o r.pdf                          | r.pdf; FILE.html or FILE.md
2 | report code-review@v1 -o none/r.html                    | none/r.html; another path
3 | report decision:nope -o r.md                            | no decision 'nope'
3 | report sweep:nope -o r.md                               | no sweep 'nope'; adapterctl sweep list
2 | generate                                                | REF is missing
2 | generate code-review@v1                                 | PROMPT; --data
3 | generate nope@v1 hi                                     | no adapter 'nope'
2 | generate code-review@v1 hi --temperature -1             | --temperature can't be -1
2 | generate code-review@v1 hi --temperature nan            | --temperature can't be nan; from 0 to 2
2 | generate code-review@v1 hi --top-p 2                    | --top-p can't be 2
2 | generate code-review@v1 hi --max-new-tokens 0           | --max-new-tokens can't be 0
3 | generate code-review@v1 --data none.jsonl               | no file none.jsonl
2 | generate code-review@v1 hi --plain --chat               | --plain; --chat
2 | generate code-review@v1 hi --dtype int3                 | --dtype can't be 'int3'; bfloat16
2 | chat                                                    | REF is missing
3 | chat nope@v1                                            | no adapter 'nope'
3 | chat code-review@v1 --against nope@v1                   | no adapter 'nope'
2 | alias set code-review                                   | ALIAS is missing
2 | alias set code-review production                        | vN is missing
2 | alias set code-review "prod!" v1                        | 'prod!' is not an alias
3 | alias set nope production v1                            | no adapter 'nope'
2 | alias set code-review latest v1                         | 'latest'
2 | alias set code-review production 1                      | '1'; v1
2 | alias rm code-review production                         | --yes
3 | alias rm code-review production --yes                   | code-review@production
3 | alias list nope                                         | no adapter 'nope'
2 | alias protect code-review                               | ALIAS is missing
2 | promote code-review@v1                                  | ALIAS is missing
2 | promote code-review@v1 --to production                  | '--to'
2 | promote code-review@v1 production --override            | reason
3 | promote nope@v1 production                              | no adapter 'nope'
2 | promote code-review@v1 Production                       | write 'production'
2 | promote code-review@v1 production --expect banana       | 'banana'; v1, v2
3 | promote code-review@v1 production --sign none.pem       | no key none.pem
3 | rollback code-review production                         | code-review@production; adapterctl alias list
3 | rollback nope production                                | no adapter 'nope'
2 | policy set code-review                                  | FILE is missing
3 | policy set code-review none.yaml                        | no file none.yaml
2 | policy set code-review unknown.yaml                     | unknown.yaml, line 2; did you mean require?
2 | policy set code-review few.yaml                         | few.yaml, line 4; min_rows; from 20
2 | policy set code-review text.yaml                        | text.yaml; alias: production
3 | policy set code-review nothing.yaml                     | nothing.yaml, line 3; no dataset 'nothing'
2 | policy rm code-review production                        | --yes
2 | approve code-review@v1                                  | --for is missing
4 | approve code-review@v1 --for production                 | adapterctl policy set code-review
3 | approve nope@v1 --for production --reason ok            | no adapter 'nope'
2 | approve code-review@v1 --for "Bad Alias" --reason ok    | 'Bad Alias' is not an alias
4 | disapprove code-review@v1 --for production              | adapterctl policy set code-review
3 | approvals nope                                          | no adapter 'nope'
3 | decisions nope                                          | no adapter 'nope'
3 | decisions show nope                                     | no decision 'nope'
3 | serve nope                                              | no adapter 'nope'
2 | serve code-review@v1 --port 99999                       | --port can't be 99999; from 1 to 65535
2 | serve code-review@v1 --engine tgi                       | --engine can't be 'tgi'; llama.cpp or vllm
2 | serve code-review@v1 --no-key --host 0.0.0.0            | 0.0.0.0; --key-file
2 | serve code-review@v1 --key-file none                    | key file none
2 | serve code-review@v1 --engine vllm                      | --at URL --shared DIR
2 | serve code-review@v1 --engine vllm --at gpu --shared .  | --at can't be 'gpu'; http://
2 | serve code-review@v1 --drain -1                         | --drain can't be -1
2 | serve code-review@v1 --key-file rows.jsonl --no-key     | --key-file; --no-key
2 | merge code-review@v1                                    | -o DIR; --register NAME
4 | merge code-review@v1 -o rows.jsonl                      | rows.jsonl; -o DIR
2 | merge code-review@v1 -o m --dtype int7                  | --dtype can't be 'int7'; bfloat16
2 | combine mix                                             | REF=WEIGHT
2 | combine mix code-review@v1                              | code-review@v1=0.5
2 | combine mix code-review@v1=half                         | 'half' is not a number
2 | combine mix code-review@v1=0                            | code-review@v1; weight 0
2 | combine Bad code-review@v1=1                            | write 'bad'
2 | combine mix code-review@v1=1 --method foo               | --method can't be 'foo'; linear, cat or svd
3 | export nope -o x --to gguf                              | no adapter 'nope'
2 | export code-review@v1 -o x --to onnx                    | --to can't be 'onnx'; gguf
2 | export code-review@v1 --to hf                           | --output is missing
4 | export code-review@v1 --to gguf -o rows.jsonl           | rows.jsonl already exists; -o
3 | convert none                                            | no folder none; adapter_model.bin
3 | convert adapter                                         | adapter_model.bin; push
2 | compat code-review@v1                                   | --engine is missing; vllm
2 | compat code-review@v1 --engine tgi                      | --engine can't be 'tgi'; vllm
3 | compat nope --engine vllm                               | no adapter 'nope'
2 | login notaurl                                           | 'notaurl'; https://host
2 | login http://127.0.0.1:1                                | --token-stdin
2 | login ftp://x.y                                         | 'ftp://x.y'; https://host
2 | token create ci --role king                             | --role can't be 'king'; reader
2 | token create ci --role reader --namespace "Bad Name"    | 'Bad Name' is not a namespace
3 | token revoke nope                                       | no token 'nope'; adapterctl token list
2 | quota set team --adapters 3                             | '--adapters'; --max-adapters
2 | quota show "Bad Name"                                   | 'Bad Name' is not a namespace
2 | quota set team                                          | --max-adapters
2 | audit --since yesterdayish                              | --since; 'yesterdayish' is not a time
2 | audit --limit 0                                         | --limit can't be 0
2 | gc extra                                                | extra; adapterctl gc --help
2 | cache prune --keep -1                                   | --keep can't be -1
2 | cache release nope                                      | 'nope' is not a digest; adapterctl cache list
2 | ui --port 99999                                         | --port can't be 99999
2 | up --workers -1                                         | --workers can't be -1; from 0
3 | logs nope                                               | no stack in; adapterctl up
2 | completion powershell                                   | 'powershell'; bash, zsh or fish
2 | help nope                                               | no command 'nope'; adapterctl --help
2 | lst                                                     | did you mean 'list'?
3 | data add none.jsonl                                     | no file none.jsonl
3 | data check none.jsonl                                   | 'none.jsonl'; adapterctl data list
2 | data preview rows.jsonl                                 | --base
3 | data rm nope --yes                                      | no dataset 'nope'; adapterctl data list
3 | base add none                                           | no folder none
3 | base add adapter                                        | config.json; save_pretrained
3 | base rm nope --yes                                      | 'nope'
2 | jobs list --state runing                                | --state can't be 'runing'; running
2 | jobs list --limit 0                                     | --limit can't be 0; from 1 to 1000
3 | jobs watch                                              | adapterctl jobs list
3 | jobs watch nope                                         | no job 'nope'; adapterctl jobs list
3 | jobs logs nope                                          | no job 'nope'
3 | jobs retry nope                                         | no job 'nope'
3 | jobs result nope                                        | no job 'nope'
2 | jobs cancel a b                                         | too many arguments: 'b'; adapterctl jobs cancel --help
2 | jobs serie x                                            | no command 'serie'; did you mean: adapterctl jobs series?
2 | plan                                                    | --base is missing
3 | plan --base nope                                        | no base 'nope'; adapterctl base add
2 | plan --base ./base --rank 0                             | --rank can't be 0; from 1 to 1024
2 | plot nope                                               | --output is missing
2 | plot code-review@v1 -o x.gif                            | x.gif; .svg or .png
2 | plot code-review@v1 -o none/x.svg                       | no folder none
2 | sweep x                                                 | --base; adapterctl sweep --help
2 | sweep x --base ./base --data rows.jsonl --rank 4        | nothing varies; --rank 1,2,4
2 | sweep x --base ./base --data rows.jsonl --rank 4,x      | --rank; 'x'; from 1 to 1024
2 | sweep x --base ./base --data rows.jsonl --rank 4,8 --seeds 0 | --seeds can't be 0; from 1 to 16
3 | sweep show nope                                         | no sweep 'nope'
2 | example nope                                            | 'nope'; docstrings
2 | example docstrings                                      | --output is missing
4 | example docstrings -o rows.jsonl                        | rows.jsonl; -o DIR
2 | train x --base ./base --data rows.jsonl --rank 0        | --rank can't be 0; from 1 to 1024
2 | train x --base ./base --data rows.jsonl --alpha -1      | --alpha can't be -1
2 | train x --base ./base --data rows.jsonl --lr 5          | --lr can't be 5; above 0 and at most 1
2 | train x --learning-rate 5                               | '--learning-rate'; --lr
2 | train x --base ./base --data rows.jsonl --optim foo     | --optim can't be 'foo'; adamw
2 | train x --base ./base --data rows.jsonl --method lora --quant-type nf4 | --quant-type; lora; qlora
2 | pull code-review@v1 -o                                  | -o needs a value
2 | pull code-review@sha256:zz                              | 'code-review@sha256:zz' is not a ref
3 | pull nope                                               | no adapter 'nope'
2 | push adapter                                            | NAME; --tree
2 | train new --base ./base --data rows.jsonl --config base | base is a folder; --config
2 | train new --base ./base --data rows.jsonl --timeout 5w  | --timeout: '5w' is not a duration; 90s
2 | train new --base ./base --data rows.jsonl --memory 4XB  | --memory: '4XB' is not a size; 16GB
2 | train new --base ./base --data rows.jsonl --chat-template adapter | --chat-template can't be 'adapter', a folder
2 | train new --base ./base --data rows.jsonl --weight 1 --weight 2 | 2 weights for 1 dataset; --weight
2 | generate code-review@v1 --data base                     | base is a folder; JSON lines
2 | push adapter Bad --base ./base                          | write 'bad'
3 | push adapter code-review --base nope                    | no base 'nope'; adapterctl base add
"""
CASES = [tuple(part.strip() for part in line.split(" | ")) for line in TABLE.strip().splitlines()]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a registry, which has `code-review@v1`, and files."""
    folder = tmp_path_factory.mktemp("wrong")
    write_base(folder / "base")
    write_adapter(folder / "adapter")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch, Client(f"local:{folder / 'home'}", cache=folder / "cache") as client:
        client.push(folder / "adapter", "code-review", base=folder / "base")
        patch.chdir(folder)
        patch.setenv("ADAPTERCTL_URL", f"local:{folder / 'home'}")
        patch.setenv("ADAPTERCTL_CACHE", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("HOME", str(folder))
        patch.setenv("ADAPTERCTL_HELPER", "0")
        yield folder


@pytest.mark.parametrize(("status", "typed", "has"), CASES, ids=[typed for _, typed, _ in CASES])
def test_a_wrong_input_is_refused_in_one_line(
    status: str, typed: str, has: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adapterctl", *shlex.split(typed)])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        main()
    written = capsys.readouterr()
    assert (written.out, ended.value.code) == ("", int(status)), written.err
    (line,) = written.err.splitlines()
    assert line.startswith("error: ")
    assert [part for part in has.split("; ") if part not in line] == [], line
    # No library speaks for us.
    assert not re.search(r"Input should|Value error|Errno|Traceback|NoneType|<class|pydantic|\bcli\b", line)
    assert line.isprintable()
