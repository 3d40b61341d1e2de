"""Random command lines and study files, seeded: each ends with code 0, or with 2 and one line; never with a traceback.

Mutated Runs and cards are in ``test_records.py``.
"""

import random
from importlib.resources import files
from pathlib import Path

import yaml

import coterie.cli.train
import coterie.deploy.speed
from coterie.cli import COMMANDS, main
from coterie.run import Run
from test_records import mutate

SEED, LINES = 0, 300

WORDS = [
    *("", " ", "0", "-1", "1", "2", "3", "0.5", "1e309", "nan", "inf", "-inf", "99999999999999999999", "1e-3", "true"),
    *(
        "None",
        "null",
        "[]",
        "[1, 2]",
        "[0,0,0]",
        "{}",
        "{a: 1}",
        "{train: 0}",
        "{train: -1}",
        "[[[",
        "2024-13-01",
        "!!x",
    ),
    *("one", "onee", "ONE", "vanilla", "resnet8", "timm/resnt18", "digits", "folder", "auto", "~/nowhere", "/dev/null"),
    *(
        "../x",
        "a b",
        "a\nb",
        "\x1b[31m",
        "日本",
        "ä",
        "\udcff",
        "-",
        "--",
        "=",
        "'",
        '"',
        "$(x)",
        "%s",
        "{",
        "@",
        "*",
        ".",
    ),
]
TRAIN = [
    *(
        "method",
        "method.name",
        "method.num_branches",
        "method.temperature",
        "method.epochs",
        "method.gate",
        "method.at",
    ),
    *("method.init", "method.share", "method.rampup", "network", "network.pretrained", "network.weights", "data"),
    *("data.root", "data.image_size", "data.mean", "data.std", "data.noise", "data.noise_map", "data.validation"),
    *("data.train_samples", "data.workers", "data.seed", "data.augment", "data.channels", "recipe", "recipe.momentum"),
    *("recipe.learning_rate", "recipe.weight_decay", "recipe.clip_norm", "recipe.drops", "recipe.schedule", "epochs"),
    *("recipe.layer_rates", "network.freeze", "network.checkpoint_activations"),
    *(
        "batch_size",
        "seed",
        "precision",
        "threads",
        "device",
        "compile",
        "capture",
        "patience",
        "accumulate",
        "sync_batch_norm",
        "from",
        "test_every",
        "track",
        "config",
        "resume",
    ),
    *("find_rate", "out", "lr", "batch-size", "help", "method.nmu_branches", "no_such_option"),
]
OTHERS = {
    "evaluate": ["student", "split", "data", "data.root", "classes", "format", "out"],
    "predict": ["student", "top", "batch_size", "out", "skip_damaged"],
    "export": ["format", "out", "student", "license", "push_to_hub", "tolerance", "with_preprocessing"],
    "bench": ["batch_sizes", "threads", "seconds", "out", "plot"],
    "report": ["out"],
    "list": ["all", "network", "data.image_size"],
    "serve": ["host", "port", "student", "threads", "max_batch", "queue", "deadline_ms"],
    "compare": ["budget", "epochs", "seeds", "methods", "teacher", "recipe", "out", "batch_size", "data.validation"],
    "study": ["scale", "plan", "only", "seeds", "out", "runs", "workers", "together"],
}


def lines(finished, folder):
    """The command lines: of every command, some options right, some not."""
    generator = random.Random(SEED)
    digit = folder / "digit.png"
    base = {
        "train": ["--method", "one", "--network", "resnet8", "--data", "digits", "--data.train_samples", "40"],
        "evaluate": [str(finished.path)],
        "predict": [str(finished.path), str(digit)],
        "export": [str(finished.path)],
        "bench": [str(finished.path), "--batch_sizes", "1", "--seconds", "0.01"],
        "report": [str(finished.path)],
        "list": ["methods"],
        "serve": [str(digit)],  # which it refuses: no line serves for ever
        "compare": ["--network", "resnet8", "--data", "digits"],
        "study": ["one", "--plan"],
    }
    for number in range(LINES):
        command = "train" if number % 2 else generator.choice([*OTHERS, "trian", ""])
        line = list(base.get(command, []))
        for _ in range(generator.randint(0, 3)):
            option = generator.choice(TRAIN if command == "train" else OTHERS.get(command, TRAIN))
            value = generator.choice(WORDS)
            line += [f"--{option}={value}"] if generator.random() < 0.5 else [f"--{option}", value]
        if generator.random() < 0.2 and line:
            line[generator.randrange(len(line))] = generator.choice(WORDS)
        if command in ("train", "export", "report", "compare") and "--out" not in line:
            line += ["--out", str(folder / f"out{number}")]
        yield [command, *line]


def test_random_command_lines_end_with_0_or_with_2_and_a_line(finished, tmp_path, monkeypatch, capsys):
    whole = coterie.cli.train.train
    trained = []

    def train(method, data, **options):
        """Checks as always, and trains the first few: the others would take the test's time."""
        if len(trained) < 5:
            trained.append(whole(method, data, **options | {"epochs": min(options["epochs"], 1), "threads": 1}))
        return Run(finished.path)

    monkeypatch.setattr(coterie.cli.train, "train", train)
    # What takes bench seconds a line: an ONNX file, processes of their own, and as long as is asked for.
    monkeypatch.setattr(coterie.deploy.speed, "as_onnx", lambda *_: [])
    monkeypatch.setattr(coterie.deploy.speed, "memory_of", lambda *_: None)
    monkeypatch.setattr(coterie.deploy.speed, "take_turns", lambda calls, seconds: [[0.1] for _ in calls])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    codes = []
    for line in lines(finished, tmp_path):
        code = 0
        try:
            main(line)
        except SystemExit as end:
            code = end.code or 0
        error = capsys.readouterr().err
        codes.append(code)
        assert code in (0, 2), line
        if code == 2:
            assert error.rstrip("\n").splitlines()[-1].startswith("coterie: "), (line, error)
        assert "Traceback" not in error, line
    assert 30 < codes.count(0) < 270
    assert trained
    assert set(COMMANDS) == {"train", *OTHERS}


def test_mutated_study_files_are_planned_or_refused_in_a_line(tmp_path, monkeypatch, capsys):
    generator, file = random.Random(SEED), tmp_path / "s.yaml"
    whole = yaml.safe_load((Path(str(files("coterie.studies"))) / "files" / "compact.yaml").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    codes = []
    for _ in range(100):
        content = mutate(whole, generator)
        file.write_text(yaml.safe_dump(content))
        code = 0
        try:
            main(["study", str(file), "--plan"])
        except SystemExit as end:
            code = end.code or 0
        error = capsys.readouterr().err
        codes.append(code)
        assert code in (0, 2), content
        assert code == 0 or (error.startswith("coterie: ") and error.count("\n") == 1), (content, error)
    assert 20 < codes.count(2) < 90
