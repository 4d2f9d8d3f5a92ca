"""The flow that a worker runs in the lesson about incidents."""

from prefect import flow


@flow(name="lesson-shop")
def nightly() -> None:
    """Load what the shop sold today: nothing, so that the lesson need not wait for it."""
