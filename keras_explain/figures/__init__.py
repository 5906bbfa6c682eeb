"""Attribution -> matplotlib Figure. The one place that normalises for the eye.

The image is shown unmarked; a grey one is windowed to its own range, which is printed. Maps are cut at a percentile of
their absolute value and drawn signed, red for and blue against the explained class, transparent at zero, over a faded
copy of the image. Scale and percentile are printed. Nothing here goes through `pyplot`, so no state of matplotlib is
touched and figures can be drawn on any thread. The verdicts on a map stand under it, in words and with a tick or cross.
"""

from keras_explain.figures.drawing import caption, probability, signed_map, window
from keras_explain.figures.history import history
from keras_explain.figures.panel import notice, panel

__all__ = ["caption", "history", "notice", "panel", "probability", "signed_map", "window"]
