"""Print a script with which a shell completes commands, flags and their values at the Tab key.

    bash:  binsr completion bash > ~/.local/share/bash-completion/completions/binsr
    zsh:   binsr completion zsh > ~/.zfunc/_binsr       # after fpath+=~/.zfunc in ~/.zshrc
    fish:  binsr completion fish > ~/.config/fish/completions/binsr.fish
    tcsh:  binsr completion tcsh > ~/.binsr.tcsh        # and source ~/.binsr.tcsh in ~/.tcshrc

bash needs its package bash-completion for that; without it, source the file in ~/.bashrc. zsh
completes after "autoload -U compinit && compinit". Print the script again after an update of binsr.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

from binsr_jax.pretrained import NETWORKS

SHELLS = ("bash", "zsh", "fish", "tcsh")

# Placeholders in the help for values that are files or folders.
_PATHS = ("PATH", "FILE", "DIR", "FOLDER")
# Completes names of networks, and files. shtab looks for "_file" in the names of such functions.
_FUNCTION = "_binsr_network_files"
_FUNCTIONS = {
    "bash": '{name}() {{\n  compgen -W "{words}" -- "$1"\n  compgen -f -- "$1"\n}}',
    "zsh": "{name}() {{\n  _alternative 'n:network:({words})' 'f:file:_files'\n}}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr completion``."""
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr completion``."""
    import shtab

    from binsr_jax.commands import COMMANDS, PROGRAMS, make_parser

    parser, subparsers, _ = make_parser([name for name in COMMANDS if name not in PROGRAMS])
    for name in PROGRAMS:
        _add_program(subparsers[name], importlib.import_module(f"binsr_jax.commands.{name}"))
    _set_completions(parser)
    function = _FUNCTIONS.get(args.shell, "")
    preamble = function.format(name=_FUNCTION, words=" ".join(_networks()))
    print(shtab.complete(parser, args.shell, preamble=preamble))


def _networks() -> list[str]:
    return [name for name, network in NETWORKS.items() if network.there]


def _set_completions(parser: argparse.ArgumentParser) -> None:
    """Sets the completion of each flag's value, which shtab reads."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _set_completions(subparser)
        else:
            _set_completion(action)


def _set_completion(action: argparse.Action) -> None:
    import shtab

    from binsr_jax.recipes import packaged

    if action.dest == "config":
        action.choices = packaged()
    elif action.metavar == "MODEL":
        action.__dict__["complete"] = {**shtab.FILE, **dict.fromkeys(_FUNCTIONS, _FUNCTION)}
    elif action.metavar in _PATHS or action.type is Path:
        action.__dict__["complete"] = shtab.FILE


def _add_program(parser: argparse.ArgumentParser, program: Any) -> None:
    """Adds the flags of a program, which are absl's, and the fields of its config."""
    from binsr_jax.config import FIELDS  # here, since only this needs it

    values = program.define_flags([])
    for name in values:
        flag = values[name]
        option = f"--{name.replace('_', '-')}"
        if flag.boolean:
            parser.add_argument(option, action="store_true", help=flag.help)
        else:
            choices = getattr(flag.parser, "enum_values", None)
            metavar = None if choices else "PATH"
            parser.add_argument(option, help=flag.help, choices=choices, metavar=metavar)
    if "config" in values:
        for name, field in FIELDS.items():
            choices = field.rule.choices if field.rule else ()
            switch = ("true", "false") if isinstance(field.default, bool) else None
            parser.add_argument(f"--config.{name}", help=field.meaning, choices=choices or switch)
