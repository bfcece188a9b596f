"""The only room that touches ComfyUI's insides: attach, run, live, library, and families (the table)."""
