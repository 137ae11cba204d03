"""How bash, zsh and fish ask what to offer, and how they are answered.

A shell gives the line up to the cursor, and gets a line for each candidate: its type, the text that takes the place of the
word, and what it is, with tabs between. Only plain names are among them, so that no shell reads one as more than text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

VARIABLE = "_ADAPTERCTL_COMPLETE"
_PROGRAM = "adapterctl"
#: Ends the line, so that the last word is the one at the cursor, even an empty one.
_CURSOR = "\x00"
_MOST_HELP = 60

_BASH = """\
_adapterctl_completion() {
    local type value help files=""
    COMPREPLY=()
    while IFS=$'\\t' read -r type value help; do
        case $type in
            plain) COMPREPLY+=("$value") ;;
            open) COMPREPLY+=("$value"); compopt -o nospace 2>/dev/null ;;
            file) files=-f ;;
            dir) files=-d ;;
        esac
    done < <(_ADAPTERCTL_COMPLETE=bash_complete _ADAPTERCTL_LINE="${COMP_LINE:0:COMP_POINT}" _ADAPTERCTL_WORD="$2" \\
        "$1" 2>/dev/null </dev/null)
    if [[ -n $files && ${#COMPREPLY[@]} -eq 0 ]]; then
        # Readline completes the names of files itself.
        if [[ $files == -d ]]; then compopt -o dirnames 2>/dev/null; else compopt -o default 2>/dev/null; fi
    elif [[ -n $files ]]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r value; do COMPREPLY+=("$value"); done < <(compgen "$files" -- "$2")
    fi
    return 0
}
complete -o nosort -F _adapterctl_completion adapterctl 2>/dev/null || complete -F _adapterctl_completion adapterctl
"""

_ZSH = """\
#compdef adapterctl
_adapterctl_completion() {
    local type value help files line
    local -a plain open described
    line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    while IFS=$'\\t' read -r type value help; do
        case $type in
            plain) if [[ -n $help ]]; then described+=("${value//:/\\\\:}:$help"); else plain+=("$value"); fi ;;
            open) open+=("$value") ;;
            file|dir) files=$type ;;
        esac
    done < <(_ADAPTERCTL_COMPLETE=zsh_complete _ADAPTERCTL_LINE="$line" "$words[1]" 2>/dev/null </dev/null)
    (( $#described )) && _describe -V -t values value described
    (( $#plain )) && compadd -V plain -a plain
    (( $#open )) && compadd -V open -S '' -a open
    if [[ -n $files ]]; then
        [[ $PREFIX == --*=* ]] && compset -P '*='
        if [[ $files == dir ]]; then _path_files -/; else _path_files -f; fi
    fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _adapterctl_completion "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _adapterctl_completion adapterctl
fi
"""

_FISH = """\
function __adapterctl_completion
    set -l tab (printf '\\t')
    env _ADAPTERCTL_COMPLETE=fish_complete _ADAPTERCTL_LINE=(commandline -cp | string collect) \\
            adapterctl 2>/dev/null </dev/null | while read -l line
        set -l parts (string split -m 2 -- $tab $line)
        switch $parts[1]
            case plain open
                if test -n "$parts[3]"
                    printf '%s\\t%s\\n' $parts[2] $parts[3]
                else
                    printf '%s\\n' $parts[2]
                end
            case dir
                __fish_complete_directories (commandline -ct) ''
            case file
                __fish_complete_path (commandline -ct)
        end
    end
end
complete --no-files --keep-order --command adapterctl --arguments '(__adapterctl_completion)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class LineComplete(ShellComplete):
    """Completion for a shell that gives the line up to the cursor."""

    def __init__(self, cli: click.Command, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__(cli, {}, _PROGRAM, VARIABLE)
        self._line = environ.get("_ADAPTERCTL_LINE", "")
        #: What the shell replaces, if that is not the whole word: bash divides words at `@`, `:` and `=`.
        self._replaced = environ.get("_ADAPTERCTL_WORD")
        self._word = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one at it."""
        words = split_arg_string(self._line.replace(_CURSOR, "") + _CURSOR)
        # Settings of variables may come first.
        while len(words) > 1 and PurePath(words[0]).name != _PROGRAM and "=" in words[0]:
            words.pop(0)
        self._word = words[-1].removesuffix(_CURSOR)
        return words[1:-1], self._word

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return what takes the place of the whole word; a file's is what is typed of its name."""
        # `--data=` stays before a value that was typed after it.
        before = incomplete[: incomplete.index("=") + 1] if incomplete.startswith("-") and "=" in incomplete else ""
        return [
            item if item.type in ("file", "dir") else CompletionItem(before + item.value, item.type, item.help)
            for item in super().get_completions(args, incomplete)
        ]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return the line for a candidate."""
        value = item.value if item.type in ("file", "dir") else item.value[self._standing :]
        return "\t".join((item.type, " ".join(value.split()), " ".join((item.help or "").split())[:_MOST_HELP]))

    @property
    def _standing(self) -> int:
        """How many characters of the word the shell leaves where they are."""
        if self._replaced is None or not self._word.endswith(self._replaced):
            return 0
        return len(self._word) - len(self._replaced)
