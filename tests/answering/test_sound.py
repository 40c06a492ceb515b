"""An overlay has the sound of its film, as far as that is whole."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np

from roadseg.answering.sound import Sound
from tests.small import read_video, run_predict


def write_sound_film(path, frames, rate=10, is_mute=False):
    """Write a film with a sound of the same length; is_mute: that is named but not there."""
    with av.open(str(path), "w") as container:
        picture, sound = container.add_stream("libx264", rate), container.add_stream("aac", 44100)
        picture.height, picture.width = frames[0].shape[:2]
        picture.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(picture.encode(None))
        if is_mute:
            return path
        wave = np.sin(np.arange(44100 * len(frames) // rate) / 20).astype(np.float32)
        for start in range(0, len(wave), 1024):
            piece = np.ascontiguousarray(wave[None, start : start + 1024])
            heard = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
            heard.sample_rate, heard.pts = 44100, start
            container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    return path


def shift_packets(path, shifted, milliseconds):
    """Copy a film packet by packet, each later by milliseconds(kind of its stream, its time)."""
    with av.open(str(path)) as film, av.open(str(shifted), "w") as copy:
        streams = [copy.add_stream_from_template(stream) for stream in film.streams]
        for packet in film.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                later = milliseconds(packet.stream.type, packet.pts)
                packet.pts, packet.dts = packet.pts + later, None
                copy.mux(packet)


def packets_of(path, kind):
    """Return (times in seconds, contents) of the packets of a file's first sound or film."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(**{kind: 0}) if p.size]
        return [float(p.pts * p.time_base) for p in packets], [bytes(p) for p in packets]


def test_an_overlay_keeps_the_sound(trained, frames, tmp_path):
    """Packet by packet, at its times; masks are numbers and have none."""
    even = [np.ascontiguousarray(frame[:30, :44]) for frame in frames]
    write_sound_film(tmp_path / "a.mp4", even)
    words = ("--output", tmp_path, "--save", "overlay", "mask")
    assert run_predict(trained, tmp_path / "a.mp4", *words) == 0
    times, contents = packets_of(tmp_path / "a.mp4", "audio")
    found, copies = packets_of(tmp_path / "a_overlay.mp4", "audio")
    kept = [(t, content) for t, content in zip(times, contents, strict=True) if t >= 0]
    assert len(found) >= len(kept) - 1 > 30 and copies == [c for _, c in kept][: len(copies)]
    np.testing.assert_allclose(found, [t for t, _ in kept][: len(found)], atol=2e-3)
    with av.open(str(tmp_path / "a_mask.mkv")) as container:
        assert not container.streams.audio


def join_films(folder, frames):
    """Write a film twice into one file, as `cat` joins them, and return its path."""
    path = write_sound_film(folder / "once.ts", 2 * frames)
    joined = folder / "joined.ts"
    joined.write_bytes(2 * path.read_bytes())
    path.unlink()
    return joined


def test_films_that_were_joined_go_on_at_their_rate(trained, frames, tmp_path, capsys):
    """Their times begin anew in the middle. The sound of the first is kept."""
    path = join_films(tmp_path, [np.ascontiguousarray(frame[:30, :44]) for frame in frames])
    assert run_predict(trained, path, "--output", tmp_path) == 0
    assert f"{path}: its sound begins anew" in capsys.readouterr().out
    times, _, _ = read_video(tmp_path / "joined_overlay.mp4")
    np.testing.assert_allclose(times, np.arange(48) / 10, atol=0.02)
    heard, _ = packets_of(tmp_path / "joined_overlay.mp4", "audio")
    assert 2.2 < heard[-1] < 2.5


def test_a_damaged_sound_costs_a_part_of_it_alone(trained, frames, tmp_path, capsys):
    path = write_sound_film(tmp_path / "a.ts", 2 * [frame[:30, :44] for frame in frames])
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) // 2, 188):  # a packet of MPEG-TS
        identity = int.from_bytes(content[place - place % 188 + 1 :][:2], "big") & 0x1FFF
        if identity == 0x101:  # the sound's
            content[place - place % 188 + 20 : place - place % 188 + 188] = bytes(168)
    path.write_bytes(content)
    assert run_predict(trained, path, "--output", tmp_path) == 0
    assert "its sound is damaged: parts of it are left out" in capsys.readouterr().out
    assert len(read_video(tmp_path / "a_overlay.mp4")[0]) == 24
    heard, _ = packets_of(tmp_path / "a_overlay.mp4", "audio")
    assert heard[-1] > 2.2


def test_a_sound_whose_time_jumps_ahead_is_told(trained, frames, tmp_path, capsys):
    """From 0.5 s on it would be heard an hour later."""
    path = write_sound_film(tmp_path / "whole.mkv", 2 * [frame[:30, :44] for frame in frames])
    hour = 3_600_000
    shift_packets(path, tmp_path / "a.mkv", lambda kind, ms: hour * (kind == "audio" and ms > 500))
    assert run_predict(trained, tmp_path / "a.mkv", "--output", tmp_path) == 0
    assert "its sound goes from 0.5 to 3600.5 s: the rest is left out" in capsys.readouterr().out
    assert len(read_video(tmp_path / "a_overlay.mp4")[0]) == 24


def test_a_sound_that_begins_before_the_pictures_goes_on_with_them(
    trained, frames, tmp_path, capsys
):
    """A second before, which has no picture to be heard beside."""
    path = write_sound_film(tmp_path / "whole.mkv", 2 * [frame[:30, :44] for frame in frames])
    shift_packets(path, tmp_path / "a.mkv", lambda kind, ms: 1000 * (kind == "video"))
    assert run_predict(trained, tmp_path / "a.mkv", "--output", tmp_path) == 0
    assert "its sound" not in capsys.readouterr().out
    heard, contents = packets_of(tmp_path / "a_overlay.mp4", "audio")
    assert contents[0] in packets_of(path, "audio")[1] and heard[0] < 0.05 and heard[-1] > 1.2


def test_a_sound_without_a_packet_is_told(trained, frames, tmp_path, capsys):
    path = write_sound_film(tmp_path / "a.ts", [f[:30, :44] for f in frames], is_mute=True)
    assert run_predict(trained, path, "--output", tmp_path) == 0
    assert f"{path}: its sound is empty" in capsys.readouterr().out
    assert len(read_video(tmp_path / "a_overlay.mp4")[0]) == 12


def test_two_sounds_may_lie_in_turns_in_a_file(tmp_path):
    """Of each a second and a half at a time, so that times fall from one to the other."""
    film, copied = SimpleNamespace(path=tmp_path / "a.mkv", is_file=False), []
    sound = Sound(film, None)
    film.start_seconds, film.notes, sound.copies = 0.0, [], {0: "first", 1: "second"}
    packets = [
        SimpleNamespace(
            pts=ms,
            dts=ms,
            duration=500,
            time_base=Fraction(1, 1000),
            stream=SimpleNamespace(index=n),
        )
        for start in (0, 1500)
        for n in (0, 1)
        for ms in range(start, start + 1500, 500)
    ]
    sound.packets = iter(packets)
    sound.copy_until(9.0, SimpleNamespace(mux=copied.append))
    assert copied == packets and not film.notes
