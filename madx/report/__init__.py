"""Reports: what a run found, as HTML, Markdown and JUnit. This room formats; it never measures and never judges."""

from madx.report.content import ReportContent
from madx.report.headline import Headline, headline
from madx.report.html import render_html
from madx.report.junit import render_junit
from madx.report.markdown import render_markdown
from madx.report.next_step import Invocation

__all__ = ["Headline", "Invocation", "ReportContent", "headline", "render_html", "render_junit", "render_markdown"]
