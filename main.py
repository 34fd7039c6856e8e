"""Trains and tests first- and second-order scores: `python main.py --help`."""

import argparse
import contextlib
import difflib
import errno
import io
import logging
import math
import os
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runners import RUNNERS

if TYPE_CHECKING:
    from configs import Config

DOC = "0"
GRACE = 5.0
"""Seconds after which a process that is not the first ends with a mistake that all have."""
NO_ROOM = "make room and try again"
NOT_ALLOWED = "give a place that you may read and write, or change its permissions"
ADVICE = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: NO_ROOM,
    errno.EFBIG: NO_ROOM,
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.EROFS: NOT_ALLOWED,
    errno.EIO: "look after the disk",
    errno.ESTALE: "look after the disk",
    errno.ENOTDIR: "give the path of a folder",
    errno.EISDIR: "a file is expected",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "mend the link",
    errno.EMFILE: "raise the number of open files (ulimit -n), or lower data.workers",
    errno.ENOMEM: "lower batch_size, model.ngf or rank",
}
"""What to do about errors of the system that are not the program's."""


def first_process() -> bool:
    """Whether this one speaks for all that torchrun starts with the same command line."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"


def leave_it_to_the_first() -> None:
    """Where all processes have the mistake: torchrun ends the first as soon as another ends, so that this one waits."""
    time.sleep(GRACE)


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, once."""

    def error(self, message: str) -> NoReturn:
        if first_process():
            print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        else:
            leave_it_to_the_first()
        raise SystemExit(2)


def runner_name(name: str) -> str:
    """The name of a runner, as `--runner` takes it."""
    if name not in RUNNERS:
        near = difflib.get_close_matches(name, RUNNERS, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise argparse.ArgumentTypeError(f"{name} is not a runner; one of {', '.join(RUNNERS)}{hint}")
    return name


def noise_level(text: str) -> float | str:
    """A number, a fraction such as 25/255, or `auto`, as `--noise` takes them."""
    over, slash, under = text.partition("/")
    try:
        return text if text == "auto" else float(over) / float(under) if slash else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}") from error


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked as far as that needs no torch."""
    parser = Parser(
        prog="main.py",
        description="Trains scores of a noisy data density by denoising, and tests them.",
        epilog="Everything about a run lies in RUN/logs/DOC: config, log, checkpoints, curves, pictures, metrics.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--runner", type=runner_name, metavar="NAME", help=" | ".join(RUNNERS))
    what.add_argument("--config", metavar="FILE", help="a file of configs/, or a path; --test and --resume_training "
                      "take the run folder's own, and compare this one with it")  # fmt: skip
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                      help="override a value of the config, such as model.ngf=32; can be given many times")  # fmt: skip
    what.add_argument("--noise", type=noise_level, nargs="+", metavar="σ", help="noise level, 0.5 or 25/255, "
                      "in the units of the data, or the lowest and the highest of a range (default: 0.5); with --input "
                      "that of the images, or auto to estimate it")  # fmt: skip
    what.add_argument("--rank", type=int, metavar="R", help="columns of a low-rank second-order head (default: 50)")
    what.add_argument("--seed", type=int, help="of the weights, the noise and the order (default: 1234)")

    mode = parser.add_argument_group("instead of training from the start")
    modes = mode.add_mutually_exclusive_group()
    modes.add_argument("--test", action="store_true", help="evaluate the checkpoint: metrics.json and a picture; with "
                       "--input and --set model.denoiser=ffdnet, or another, no run folder is needed")  # fmt: skip
    mode.add_argument("--input", metavar="PATH", help="with --test: your own noisy images, a file or a folder, in "
                      "place of the test set")  # fmt: skip
    mode.add_argument("--model", metavar="PATH", help="with --input: the run folder or checkpoint that answers, "
                      "in place of RUN/logs/DOC; needs no --runner")  # fmt: skip
    mode.add_argument("--region", type=int, nargs=4, metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"), help="with --input: "
                      "pixels whose principal components are taken, given the whole image")  # fmt: skip
    mode.add_argument("--measure", metavar="HOW", help="with --input: these are measurements of pictures to be drawn, "
                      "through a mask, a picture whose white pixels are known, blur:σ, or down:F; --noise is the "
                      "standard deviation of their noise")  # fmt: skip
    mode.add_argument("--output", metavar="DIR", help="with --input: where its pictures go (default: input in the "
                      "run's image folder, or in RUN where there is none or --model is given)")  # fmt: skip
    mode.add_argument("--resize", action="store_true", help="with --input: make images of other sizes fit")
    mode.add_argument("--clean", action="store_true", help="the images of --input are clean: add the noise first, "
                      "or measure them")  # fmt: skip
    modes.add_argument("--resume_training", action="store_true", help="continue from the newest checkpoint")

    where = parser.add_argument_group("the run folder")
    where.add_argument("--run", default="runs", metavar="DIR", help="holds all run folders (default: runs)")
    where.add_argument("--doc", default=DOC, metavar="NAME", help="name of this one, RUN/logs/DOC (default: 0)")
    where.add_argument("--comment", metavar="TEXT", help="a note, kept in its config.yml")
    where.add_argument("-i", "--image_folder", default="images", metavar="NAME", help="its pictures (default: images)")
    where.add_argument("--ni", action="store_true", help="no interaction: move an existing run folder to DOC.1, DOC.2, "
                       "… without asking; nothing is deleted")  # fmt: skip

    how = parser.add_argument_group("the machine and the log")
    how.add_argument("--device", help="cuda, cuda:N, mps or cpu (default: the best there is)")
    how.add_argument("--verbose", default="info", choices=("debug", "info", "warning", "critical"),
                     help="how much is logged (default: info)")  # fmt: skip
    args = parser.parse_args(arguments)
    if args.comment is not None and not args.comment.isprintable():  # what the locale could not read of it
        args.comment = args.comment.encode(errors="surrogateescape").decode(errors="replace")
    check_together(parser, args)
    return args


def check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses flags that need each other."""
    if empty := [flag for flag in ("model", "input", "output") if getattr(args, flag) == ""]:
        parser.error(f"argument --{empty[0]}: empty; a path is expected")
    if args.runner is None and args.model is None:
        parser.error("the following arguments are required: --runner")
    if args.model is not None and args.input is None:
        parser.error("argument --model: only with --input")
    others = {"--config": args.config, "--rank": args.rank, "--comment": args.comment, "--set": args.overrides or None}
    others |= {"--doc": None if args.doc == DOC else args.doc, "--runner": args.runner}
    if args.model is not None and args.seed is not None and not 0 <= args.seed < 2**63:
        parser.error(f"argument --seed: {args.seed}; a whole number from 0 to 2⁶³ − 1 is expected")
    if args.model is not None and (given := [flag for flag, value in others.items() if value is not None]):
        parser.error(f"argument {given[0]}: not with --model, which says what answers")
    if args.measure is not None:
        check_measurement(parser, args)
    if args.output is not None and args.input is None:
        parser.error("argument --output: only with --input")
    if args.resize and args.input is None:
        parser.error("argument --resize: only with --input")
    if args.noise is not None and args.input is None and "auto" in args.noise:
        parser.error("argument --noise: auto only with --input; a number is expected")
    if args.noise is not None and args.input is not None and len(args.noise) > 1:
        parser.error("argument --noise: one level is expected with --input, or auto")
    if (
        args.noise is not None
        and args.input is not None
        and not (args.noise[0] == "auto" or 0 < args.noise[0] < math.inf)
    ):
        parser.error(f"argument --noise: {args.noise[0]}; a positive, finite number is expected, or auto")
    if args.input is not None and not args.test:
        parser.error("argument --input: only with --test")
    if args.clean and args.input is None:
        parser.error("argument --clean: only with --input")
    if args.region is not None and args.input is None:
        parser.error("argument --region: only with --input")


def check_measurement(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses what does not go with `--measure`."""
    if args.input is None:
        parser.error("argument --measure: only with --input")
    if args.region is not None:
        parser.error("argument --region: not with --measure")
    if args.resize and not args.clean:
        parser.error("argument --resize: with --measure only for --clean images")
    if args.noise is None or "auto" in args.noise:
        parser.error("argument --noise: a number is expected with --measure, of the noise of the measurements")


def resolve(args: argparse.Namespace) -> tuple[Path, "Config"]:
    """The run folder and the configuration of this call: a folder that is resumed or tested has its own."""
    import configs
    import runners
    from configs import UserError
    from runners import run_folder

    flags = {"seed": args.seed, "rank": args.rank, "comment": args.comment, "runner": args.runner}
    if args.input is None:  # with it, the noise is that of the images
        flags["noise"] = args.noise
    if not (args.test or args.resume_training):
        if args.config is None:
            raise UserError("--config is missing: a file of configs/, or a path")
        config = configs.load(configs.find(args.config), args.overrides, **flags)
        return run_folder.locate(args.run, runners.get(args.runner).folder_name(args.doc, config)), config
    if args.test and (bare := of_a_denoiser(args)) is not None:
        return untrained(args, bare)
    folder = run_folder.existing(args.run, args.doc, args.rank)
    beside = None if args.config is None else configs.find(args.config)
    return folder, configs.load_trained(folder, args.overrides, beside, **flags)


def of_a_denoiser(args: argparse.Namespace) -> "Config | None":
    """The configuration of a test of a denoiser from elsewhere alone, where `--set model.denoiser=NAME` asks for it."""
    import configs
    import models

    named = [text.partition("=") for text in args.overrides]
    if not any(key.strip() == "model.denoiser" and models.is_external(value.strip()) for key, _, value in named):
        return None
    flags = {"seed": args.seed, "rank": args.rank, "comment": args.comment, "runner": args.runner, "noise": args.noise}
    if args.noise == ["auto"] or args.measure is not None:
        del flags["noise"]
    config = configs.load(None if args.config is None else configs.find(args.config), args.overrides, **flags)
    return config if config.model.external and config.model.head == "none" else None


def untrained(args: argparse.Namespace, config: "Config") -> tuple[Path, "Config"]:
    """The folder and the configuration of a test of a denoiser from elsewhere, which has no checkpoint."""
    from configs import UserError
    from runners import external, run_folder

    name, folder = config.model.denoiser, run_folder.locate(args.run, args.doc)
    if "dataset" not in config.data.model_fields_set:
        raise UserError(
            f"data.dataset is missing: on which images {name} is tested; --set data.dataset=ImageFolder "
            "--set data_dir=FOLDER --set data.image_size=[H,W], or --input with your own"
        )
    config = external.completed(config)
    run_folder.create_untrained(folder, config)
    return folder, config


class LogFile(logging.FileHandler):
    """`stdout.txt`; where it can't be written, on a full disk say, the console says so once."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.told:
            reason = getattr(sys.exc_info()[1], "strerror", None) or sys.exc_info()[1]
            print(f"main.py: {self.baseFilename}: {reason}; the log goes on without it", file=sys.stderr)
        self.told = True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class ConsoleFilter(logging.Filter):
    """Leaves out what the console shows otherwise: the progress bar's lines, and errors, which go to stderr."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR and not getattr(record, "progress", False)


def log_to(folder: Path | None, level: str) -> None:
    """Sends the log to the console, and to `stdout.txt` of a run folder."""
    console = logging.StreamHandler(sys.stdout)
    console.addFilter(ConsoleFilter())
    console.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if folder is not None:
        handlers.append(LogFile(folder / "stdout.txt", encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, *where: str(message)
    for name in ("matplotlib", "PIL", "tensorboard"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run(args: argparse.Namespace) -> None:
    """Does what the parsed command line says."""
    import runners
    from runners import distributed, locks, run_folder

    if args.input is not None:
        if first_process():
            explain_input(args)
        return
    folder, config = resolve(args)
    images = run_folder.inside(folder, args.image_folder, "--image_folder")
    if args.test and not first_process():
        return
    world = distributed.join(args.device, together=not args.test)
    try:
        runner = runners.get(args.runner)(config, folder, world, images)
        fresh = not (args.test or args.resume_training)
        if fresh:
            runner.load_data()
            data = runner.fingerprints() if world.first else None
            world.at_first(lambda: run_folder.create(folder, runner.config, images, not args.ni, data))
        elif args.resume_training:
            world.at_first(lambda: locks.claim(folder))
        log_to(folder if world.first else None, args.verbose if world.first else "critical")
        if fresh and (unused := config.unused_keys()):
            logging.info("without effect, as in the published program: %s", ", ".join(unused))
        if args.test:
            runner.test()
        else:
            runner.train(resume=args.resume_training)
    finally:
        locks.release(folder)


def check_output(target: Path, source: Path, model: str | None) -> None:
    """Refuses answers among the images that are asked about, and in a checkpoint that is only read.

    Raises:
        UserError: where they would go there.
    """
    from configs import UserError

    place = target.resolve()
    if source.is_dir() and place == source.resolve():
        raise UserError(f"--output: {target} holds the images of --input; name another folder")
    if model is not None and Path(model).resolve() in (place, *place.parents):
        raise UserError(f"--output: {target} lies in --model, which is only read; name another folder")


def explain_input(args: argparse.Namespace) -> None:
    """`--test --input`: of a run folder, where the log goes too unless `--output` says where the pictures go; of the
    model that `--model` names; or of a denoiser from elsewhere, without any."""
    import models
    from runners import distributed, run_folder
    from runners.explain import explain
    from runners.measure import measure

    model: Path | models.ScoreModel
    target = Path(args.run) / "input"
    if args.model is not None:
        model = Path(args.model)
    elif (bare := of_a_denoiser(args)) is not None:
        model = models.external_denoiser(str(bare.model.denoiser), bare)
    else:
        model, _ = resolve(args)
        target = run_folder.inside(model, args.image_folder, "--image_folder") / "input"
        if args.output is None:
            log_to(model, args.verbose)
    target = target if args.output is None else Path(args.output)
    check_output(target, Path(args.input), args.model)
    device = distributed.join(args.device, together=False).device
    if args.measure is not None:
        measure(model, args.input, target, args.measure, args.noise[0], args.clean, device, args.seed, args.resize)
    else:
        sigma = None if args.noise is None else args.noise[0]
        explain(model, args.input, target, args.clean, device, args.seed, sigma, args.resize, args.region)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        the exit code: 0 done, 1 for a bug (with its traceback), 2 for a user's mistake (one line),
        130 after Ctrl-C and 143 after SIGTERM, when a training has saved its checkpoint.
    """
    for stream in (sys.stdout, sys.stderr):  # σ in a locale that has none
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")
    threading.excepthook = log_thread_error
    args = parse(arguments)
    from configs import UserError
    from runners import distributed

    try:
        log_to(None, args.verbose if first_process() else "critical")
        run(args)
    except UserError as error:
        return mistake(str(error))
    except KeyboardInterrupt:
        if first_process():
            print("main.py: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if (line := system_error(error, args)) is not None:
            return mistake(line)
        logging.exception("a bug")
        traceback.print_exc()
        return 1
    finally:
        distributed.leave()
    return 0


def mistake(line: str) -> int:
    """Says what is wrong, where no other process says it; returns the exit code."""
    from runners import distributed

    logging.error("%s", line)
    if first_process():
        print(f"main.py: {line}", file=sys.stderr, flush=True)
        distributed.tell(line)
    elif not distributed.joined():
        leave_it_to_the_first()
    elif not distributed.told(line):
        print(f"main.py: process {os.environ['RANK']}: {line}", file=sys.stderr)
    return 2


def system_error(error: Exception, args: argparse.Namespace) -> str | None:
    """One line on what is no bug: the disk, its permissions, the memory, the locale."""
    if isinstance(error, OSError) and error.errno in ADVICE:
        return f"{error.filename or args.run}: {error.strerror}; {ADVICE[error.errno]}"
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error).lower():
        return f"not enough memory; {ADVICE[errno.ENOMEM]}"
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding().lower() != "utf-8":
        return f"{error.object!r}: not a file name in this locale; set LC_ALL=C.UTF-8"
    return None


def log_thread_error(failed: threading.ExceptHookArgs) -> None:
    """A thread beside the training that can't write its file, that of TensorBoard, has told the training so already."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


if __name__ == "__main__":
    sys.exit(main())
