import asyncio

from proxy.doctor.record import Failed, Finding, Record, Result


def recorded(*actions: Finding[str] | Failed) -> tuple[Record, list[str | Result], list[str | None]]:
    """The record, what was told in its order, and the values that the steps gave."""
    told: list[str | Result] = []
    record = Record(told.append, told.append)

    async def act(action: Finding[str] | Failed) -> Finding[str]:
        if isinstance(action, Failed):
            raise action
        return action

    values: list[str | None] = []

    async def scene() -> None:
        for number, action in enumerate(actions):
            value = await record.step(f"step {number}", act(action))
            values.append(value)

    asyncio.run(scene())
    return record, told, values


def test_results() -> None:
    """Each step is told before and after; one that fails gives no value, and ends nothing."""
    failed = Failed("it is down", "Start it.", ("seen",))
    record, told, values = recorded(Finding("value", ("found", "it")), failed, Finding("another"))
    assert values == ["value", None, "another"]
    assert told == ["step 0", record.results[0], "step 1", record.results[1], "step 2", record.results[2]]
    outcomes = [(result.ok, result.found, result.cause, result.next) for result in record.results]
    assert outcomes == [
        (True, ("found", "it"), None, None),
        (False, ("seen",), "it is down", "Start it."),
        (True, (), None, None),
    ]
    assert all(result.seconds >= 0 for result in record.results)
    assert record.failures == {"step 1": failed}
    assert not record.ok


def test_all_good() -> None:
    """The record is good while no step has failed."""
    assert recorded(Finding("a"), Finding("b"))[0].ok


def test_texts() -> None:
    """Whatever a peer says, each text is one printable line of at most 256 characters (R151)."""
    text = "\x1b[2J\r\n\u202e" + "x" * 1000
    record, _, _ = recorded(Finding("", (text, text)), Failed(text, text, (text,)))
    for result in record.results:
        for line in (*result.found, result.cause or "", result.next or ""):
            assert line.isprintable()
            assert len(line) <= 256
