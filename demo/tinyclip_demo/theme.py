"""Colours, fonts and spacing of the page; system fonts only, so that nothing is downloaded."""

from __future__ import annotations

import gradio as gr

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue",
        "Arial", "sans-serif")  # fmt: skip
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

# Variables of gradio's theme; ``_dark`` is the value in dark mode.
STYLE = {
    "body_background_fill": "#f6f7f9",
    "body_background_fill_dark": "#0f1115",
    "color_accent": "#3b5bdb",
    "color_accent_soft": "#eef1fd",
    "color_accent_soft_dark": "#1d2440",
    "body_text_color": "#15181e",
    "body_text_color_dark": "#eceef2",
    "body_text_color_subdued": "#5b6472",
    "body_text_color_subdued_dark": "#9aa3b2",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#171a20",
    "block_border_color": "#e3e6ea",
    "block_border_color_dark": "#2a2f38",
    "block_border_width": "1px",
    "block_shadow": "none",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_label_border_width": "0px",
    "block_title_text_size": "13px",
    "block_title_text_weight": "500",
    "block_title_text_color": "#5b6472",
    "block_title_text_color_dark": "#9aa3b2",
    "block_label_text_color": "#5b6472",
    "block_label_text_color_dark": "#9aa3b2",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#0f1115",
    "input_border_width": "1px",
    "input_radius": "6px",
    "input_border_color": "#d5d9df",
    "input_border_color_dark": "#343a45",
    "input_border_color_focus": "#3b5bdb",
    "input_border_color_focus_dark": "#8ea6ff",
    "button_primary_background_fill": "#3b5bdb",
    "button_primary_background_fill_hover": "#314fc4",
    "button_primary_background_fill_dark": "#4c6ae6",
    "button_primary_background_fill_hover_dark": "#5b78f0",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#ffffff",
    "slider_color": "#3b5bdb",
    "slider_color_dark": "#8ea6ff",
}


def page_theme() -> gr.Theme:
    """Return a gradio theme of flat panels, thin lines and one blue."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    return theme.set(**STYLE)
