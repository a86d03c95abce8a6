"""Training inside a user's checkout of kohya-ss/musubi-tuner, as a subclass of its own trainers."""
