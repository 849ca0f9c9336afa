#!/usr/bin/python3
"""What the linked programs show of the flags they were built with: check_hardening.py --bin DIR [--fortify] [--objects DIR]

Each program and plugin in DIR: position independent, full RELRO with bindings resolved at start (lazy binding spills key-bearing
registers to the stack), no executable stack, no text relocation, no run-time search path. --objects: every room's object carries
the CET marks; the linked program may lack them where the C library's own start files do.
"""
import argparse
import re
import subprocess
import sys
from pathlib import Path


def readelf(*arguments):
    return subprocess.run(["readelf", "--wide", *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def is_elf(path):
    return path.is_file() and path.open("rb").read(4) == b"\x7fELF"


def text_size(path):
    """Bytes of the program's own code."""
    found = re.search(r"\.text\s+PROGBITS\s+\S+\s+\S+\s+(\S+)", readelf("-S", path))
    return int(found[1], 16) if found else 0


# A program smaller than this may have no buffer to protect, and then shows neither of the two functions asked for.
SMALL = 16384


def judge(path, fortify, small=SMALL):
    """What is wrong with one program or plugin, as sentences."""
    header, dynamic, segments = readelf("-h", path), readelf("-d", path), readelf("-l", path)
    plugin = path.suffix == ".so"
    if not re.search(r"Type:\s+DYN", header):
        yield "not position independent (-fPIE -pie)"
    if not plugin and not re.search(r"FLAGS_1.*\bPIE\b", dynamic):
        yield "no PIE mark (-pie)"
    if not re.search(r"FLAGS.*\b(BIND_)?NOW\b", dynamic):
        yield "binds lazily (-z now)"
    if "GNU_RELRO" not in segments:
        yield "no RELRO (-z relro)"
    stack = re.search(r"GNU_STACK.*", segments)
    if not stack or re.search(r"\bRWE\b", stack[0]):
        yield "an executable stack (-z noexecstack)"
    if "TEXTREL" in dynamic:
        yield "text relocations"
    if re.search(r"\((RPATH|RUNPATH)\)", dynamic):
        yield "a run-time search path"
    if text_size(path) < small:
        return
    names = readelf("--dyn-syms", path)
    if "__stack_chk_fail" not in names:
        yield "no stack protector (-fstack-protector-strong)"
    if fortify and not re.search(r"__\w+_chk\b", names):
        yield "no fortified call (-D_FORTIFY_SOURCE=2)"


def judge_cet(archive):
    """Members of a static library without the IBT and SHSTK marks."""
    member, seen, code = "", set(), []
    for line in readelf("-n", "-S", archive).splitlines():
        if line.startswith("File:"):
            member = line.split("(")[-1].rstrip(")")
            code.append(member)
        elif "IBT" in line and "SHSTK" in line:
            seen.add(member)
    return [m for m in code if m not in seen]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--objects", type=Path, help="the build's folder: its static libraries must carry CET marks")
    parser.add_argument("--fortify", action="store_true")
    arguments = parser.parse_args()
    programs = sorted(p for p in arguments.bin.iterdir() if is_elf(p)) if arguments.bin.is_dir() else []
    problems = [f"{p.name}: {wrong}" for p in programs for wrong in judge(p, arguments.fortify)]
    archives = sorted(arguments.objects.rglob("lib*.a")) if arguments.objects else []
    for archive in archives:
        problems += [f"{archive.name}({member}): no CET marks (-fcf-protection=full)" for member in judge_cet(archive)]
    for problem in problems:
        print(problem)
    if not programs or (arguments.objects and not archives):
        problems.append("nothing judged")
        print(f"check_hardening: no programs in {arguments.bin}, or no libraries: build first")
    print(f"check_hardening: {len(programs)} programs, {len(archives)} libraries, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
