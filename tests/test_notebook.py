"""A training in a notebook: what its cells show."""

import nbformat
import pytest
from nbclient import NotebookClient

import coterie
from coterie.console import notebook

CELLS = (
    """import coterie
data = coterie.data.load("digits", train_samples=160, test_samples=100)
run = coterie.train(coterie.methods.One(network="resnet8"), data, epochs=2, batch_size=32, out="runs/one")""",
    "run",
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The outputs of each cell."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return [cell.outputs for cell in book.cells]


@pytest.mark.libraries
def test_a_cell_that_trains_shows_a_line_an_epoch_and_one_that_moves(shown):
    texts = [output.text for output in shown[0] if output.output_type == "stream"]
    assert {output.name for output in shown[0] if output.output_type == "stream"} == {"stdout"}  # no red, no warnings
    lines = [line for line in "".join(texts).splitlines() if line.startswith("train epoch ")]
    assert [line.partition("  ")[0] for line in lines] == ["train epoch 1/2", "train epoch 2/2"]
    assert all(" left  test error of target-average " in line and " training error " in line for line in lines)
    moving = [output for output in shown[0] if output.output_type == "display_data"]
    assert len(moving) == 1
    assert list(moving[0].data) == ["text/plain"]
    assert moving[0].data["text/plain"].startswith("train  ━")
    assert "epoch 2/2" in moving[0].data["text/plain"]
    assert not set("\r\x1b") & set("".join(texts) + moving[0].data["text/plain"])


def test_a_run_is_a_small_table(shown):
    (output,) = shown[1]
    assert output.data["text/plain"] == "Run('runs/one')"
    for cells in ("<th>method</th><td>one</td>", "<th>path</th><td>runs/one</td>", "<th>data</th><td>digits</td>"):
        assert cells in output.data["text/html"]
    assert "<th>test error</th><td>target-average " in output.data["text/html"]


def test_the_table_of_a_run_that_is_not_finished_says_so(finished, tmp_path):
    folder = tmp_path / "<b>"
    folder.mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (folder / name).write_bytes((finished.path / name).read_bytes())
    shown = coterie.Run(folder)._repr_html_()
    assert "2 done; not finished" in shown
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown


def test_here_is_no_notebook():
    assert not notebook.in_notebook()
