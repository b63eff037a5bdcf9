"""How a loaded model sees: what a message's pictures are to it, once it is said how it shall look at them.

`Media` come in; views of them, their embeddings and what identifies the vision tower go out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenctl.engine.vision.encoder import Embeddings, VisionTower
from qwenctl.engine.vision.media_items import View, Views
from qwenctl.protocol.media import Media, Seen, VisionSettings


class Sight:
    """The eyes of a model. `open_tower` gives the vision tower in a file (""; there is none) when it is needed."""

    def __init__(self, open_tower: Callable[[str], VisionTower]) -> None:
        self._open_tower = open_tower
        self.use(VisionSettings())

    def use(self, settings: VisionSettings) -> None:
        """Look at pictures so from now on."""
        self._views, self._tower = Views(settings), self._open_tower(settings.mmproj)

    @property
    def tower(self) -> str:
        """What identifies the vision tower. Raises RequestFailure if there is none."""
        return self._tower.fingerprint

    def views(self, media: Media) -> Sequence[View]:
        """What is seen of a picture or a clip. Raises RequestFailure."""
        self._tower.check()
        return self._views.of(media)

    def embeddings(self, view: View) -> Embeddings | None:
        """What a view is to the model; None if interrupted. Raises RequestFailure."""
        return self._tower.embeddings(view, self._views.pixels)

    def described(self, media: Media, tokens: int) -> Seen:
        """A picture or a clip that costs `tokens`. Raises RequestFailure."""
        views = self.views(media)
        frames = len({frame for view in views for frame in view.frames})
        return Seen(views[0].original.width, views[0].original.height, tokens, frames, self._views.seconds(media))
