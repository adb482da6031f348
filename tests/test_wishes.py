"""What several processes agree upon; here one of them, which believes that there is another."""

import jax

from jepa_jax.parallel.processes import Wishes


def test_wishes_are_compiled_once(monkeypatch, caplog):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    wishes = Wishes(behind=1)
    with jax.log_compiles():
        assert wishes(False, True) == (False, False)
        assert any("Compiling" in each.message for each in caplog.records)
        caplog.clear()
        assert wishes(False, False) == [False, True]
        assert wishes(False, False) == [False, False]
    assert not caplog.records
