"""The embedded demo: a small world with exact checks, and a small pretrained Z-Image pipeline that draws it."""
