"""The tabs of the page; like ``page`` and ``theme``, they import gradio when imported."""
