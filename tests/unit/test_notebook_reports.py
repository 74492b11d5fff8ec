"""Reports in a notebook are shown once, by the notebook."""

import builtins
import sys
from types import ModuleType

from tinyclip_edge.notebook import NotebookReport, report_table


class Report(NotebookReport):
    def table(self):
        table = report_table("a title", ["figure"])
        table.add_row("name", "1.5")
        return table


class ZMQInteractiveShell:  # by whose name rich knows a notebook
    pass


def test_rich_displays_nothing_of_its_own(monkeypatch):
    displayed = []
    display = ModuleType("IPython.display")
    display.display = displayed.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr("rich.console.get_ipython", ZMQInteractiveShell, raising=False)
    html = Report()._repr_html_()
    assert displayed == []
    assert "a title" in html and "1.5" in html and html.startswith("<pre")
