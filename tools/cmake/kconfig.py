#!/usr/bin/python3
"""Kconfig for the build: one defconfig in; .config, autoconf.h and a CMake fragment out.

What must stay true: a setting that does not take effect is an error, never a warning. That is an unknown option, a bad value, and
an option that its dependencies or the build type forced to another value than the one asked for.
"""
import argparse
import sys
from pathlib import Path

try:
    import kconfiglib
except ImportError:
    sys.exit("kconfig: this python3 has no kconfiglib: apt-get install python3-kconfiglib, and use /usr/bin/python3")


def forced(kconf):
    """Assignments that came to nothing, as sentences."""
    for symbol in kconf.unique_defined_syms:
        if symbol.user_value is None:
            continue
        asked = kconfiglib.TRI_TO_STR.get(symbol.user_value, symbol.user_value)
        if asked != symbol.str_value:
            yield f"CONFIG_{symbol.name} was set to '{asked}' but is '{symbol.str_value}': see what it depends on in its Kconfig"


def cmake_lines(kconf):
    for symbol in kconf.unique_defined_syms:
        if symbol.type in (kconfiglib.BOOL, kconfiglib.TRISTATE):
            yield f"set(CONFIG_{symbol.name} {'OFF' if symbol.str_value == 'n' else 'ON'})\n"
        elif symbol.type != kconfiglib.UNKNOWN:
            yield f"set(CONFIG_{symbol.name} [==[{symbol.str_value}]==])\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--kconfig", required=True)
    parser.add_argument("--out", required=True, type=Path, help="folder for the three files")
    parser.add_argument("--set", action="append", default=[], help="CONFIG_X=value, after the defconfig")
    parser.add_argument("defconfig", type=Path)
    arguments = parser.parse_args()

    try:
        kconf = kconfiglib.Kconfig(arguments.kconfig, warn_to_stderr=False, suppress_traceback=False)
        kconf.warn_assign_undef = True
        kconf.load_config(str(arguments.defconfig))
        if arguments.set:
            extra = arguments.out / "command-line.config"
            arguments.out.mkdir(parents=True, exist_ok=True)
            extra.write_text("".join(f"{line}\n" for line in arguments.set), encoding="utf-8")
            kconf.warn_assign_override = kconf.warn_assign_redun = False
            kconf.load_config(str(extra), replace=False)
    except (kconfiglib.KconfigError, OSError) as error:
        sys.exit(f"kconfig: {error}")
    problems = [*kconf.warnings, *forced(kconf)]
    if problems:
        sys.exit("\n".join(f"kconfig: {problem}" for problem in problems))

    arguments.out.mkdir(parents=True, exist_ok=True)
    kconf.write_config(str(arguments.out / ".config"))
    kconf.write_autoconf(str(arguments.out / "autoconf.h"))
    fragment = arguments.out / "config.cmake"
    text = "".join(cmake_lines(kconf))
    if not fragment.exists() or fragment.read_text(encoding="utf-8") != text:
        fragment.write_text(text, encoding="utf-8")
    # for CMake: the files to configure again for
    print(";".join(str(Path(kconf.srctree or ".") / f) for f in kconf.kconfig_filenames))


if __name__ == "__main__":
    main()
