"""The on-disk patches and the patcher; standard library only."""
