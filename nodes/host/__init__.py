"""The only room that touches ComfyUI's insides: families (the table), run, attach."""
