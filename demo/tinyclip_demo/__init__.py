"""The page that shows several CLIP models side by side; importing it does not import gradio."""

from __future__ import annotations

from tinyclip_demo.app import Visitors, build_app, launch
from tinyclip_demo.gallery import Gallery, open_gallery
from tinyclip_demo.service import DemoService

__all__ = ["DemoService", "Gallery", "Visitors", "build_app", "launch", "open_gallery"]
