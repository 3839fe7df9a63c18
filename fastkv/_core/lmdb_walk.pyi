TEXTS: dict[int, str]

class PageWalk:
    damage_count: int
    used_count: int
    def __init__(self, fd: int, page_bytes: int, pages: int, *, window_bytes: int = 0) -> None: ...
    def walk(
        self,
        root: int,
        depth: int,
        *,
        numbers: bool = False,
        content: bool = False,
        items: list[tuple[bytes, int, bytes]] | None = None,
    ) -> tuple[int, int, int, int, int]: ...
    def mark(self, page: int) -> bool: ...
    def is_used(self, page: int) -> bool: ...
    def damages(self) -> list[tuple[int, str]]: ...
