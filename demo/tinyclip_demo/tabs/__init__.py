"""The tabs of the page; with ``page`` and ``theme`` the only modules that import gradio."""
