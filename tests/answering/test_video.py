"""Videos come out frame for frame, each at its own time."""

import fractions
import functools
import http.server
import re
import signal
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest
from PIL import Image

from roadseg.answering import video
from roadseg.drawn import scenes
from roadseg.errors import UserError
from tests.small import HERE, read_video, run_predict, write_video


def test_a_frame_of_a_video_is_predicted_as_the_same_picture(trained, frames, tmp_path):
    """All frames, in their order, size and rate; masks and probabilities without any loss."""
    kinds, out = ("overlay", "mask", "probability"), tmp_path / "out"
    write_video(tmp_path / "film.mkv", frames, rate=10)
    for number, picture in enumerate(frames):
        Image.fromarray(picture).save(tmp_path / f"p{number:02d}.png")
    assert run_predict(trained, tmp_path, "--output", out, "--save", *kinds) == 0
    endings = {"overlay": "mp4", "mask": "mkv", "probability": "mkv"}
    for kind, ending in endings.items():
        times, pictures, rate = read_video(out / f"film_{kind}.{ending}")
        np.testing.assert_allclose(times, np.arange(12) / 10, atol=1e-3)
        assert rate == pytest.approx(10, rel=0.01) and len(pictures) == 12
        for number, picture in enumerate(pictures):
            still = np.asarray(Image.open(out / f"p{number:02d}_{kind}.png"))
            if kind == "overlay":  # compressed; other frames are some 60 away
                assert still.shape == (31, 45, 3) and picture.shape == (32, 46, 3)  # even sizes
                assert np.abs(picture[:31, :45].astype(int) - still).mean() < 10
            else:
                np.testing.assert_array_equal(picture, still)


def test_frames_of_another_size_get_the_size_of_the_first(frames, tmp_path):
    """Without mixing classes."""
    film = video.Video(write_video(tmp_path / "film.mkv", frames))
    decoded = list(film)[:2]
    with film.writing(tmp_path / "mask.mkv", lossless=True) as write:
        for frame, shape in zip(decoded, ((30, 40), (60, 80)), strict=True):
            mask = np.zeros(shape, np.uint8)
            mask[:, shape[1] // 2 :] = 9
            write(film.encode(mask, lossless=True), frame)
    _, pictures, _ = read_video(tmp_path / "mask.mkv")
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_an_overlay_keeps_pixels_that_are_not_square(trained, frames, tmp_path):
    """As players stretch the film, so they stretch what is made of it."""
    ratio = fractions.Fraction(4, 3)
    write_video(tmp_path / "film.mp4", frames, codec="mpeg4", pixel_shape=ratio)
    assert run_predict(trained, tmp_path / "film.mp4", "--output", tmp_path) == 0
    for name in ("film.mp4", "film_overlay.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].sample_aspect_ratio == ratio


def test_players_learn_which_colours_an_overlay_has(trained, frames, tmp_path):
    """Those of BT.709, which FFmpeg numbers 1, in the limited range; or red would be off."""
    write_video(tmp_path / "film.mkv", frames)
    assert run_predict(trained, tmp_path / "film.mkv", "--output", tmp_path) == 0
    with av.open(str(tmp_path / "film_overlay.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_range) == (1, 1, 1)


def test_frames_keep_their_times_where_these_are_uneven(trained, frames, tmp_path):
    times = [0, 40, 80, 700, 720, 760, 1500, 1501, 1600, 1700, 1800, 2500]
    even = [np.ascontiguousarray(frame[:30, :44]) for frame in frames]
    write_video(tmp_path / "film.mp4", even, codec="libx264", times=times)
    assert run_predict(trained, tmp_path, "--output", tmp_path / "out") == 0
    found, pictures, _ = read_video(tmp_path / "out" / "film_overlay.mp4")
    np.testing.assert_allclose(found, np.array(times) / 1000, atol=1e-3)
    assert pictures[0].shape == (30, 44, 3)


@pytest.mark.parametrize(
    ("rotation", "corner"), [(90, "lower left"), (-90, "upper right"), (180, "lower right")]
)
def test_a_video_is_turned_as_the_camera_was_held(rotation, corner, tmp_path):
    """Its bright upper left corner comes where FFmpeg's counter-clockwise angle brings it."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:8, :8] = 255
    path = write_video(tmp_path / "a.mp4", [frame] * 3, codec="libx264", rotation=rotation)
    picture = video.Video.read(next(iter(video.Video(path))))
    assert picture.shape == ((32, 48, 3) if rotation == 180 else (48, 32, 3))
    rows, columns = corner.split()
    row = {"upper": 2, "lower": -3}[rows]
    column = {"left": 2, "right": -3}[columns]
    assert picture[row, column].min() > 200 and np.median(picture) < 20


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4")])
def test_of_a_video_that_was_cut_off_all_that_is_there_is_done(
    suffix, codec, trained, random, tmp_path, capsys
):
    frames = [random.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / f"cut.{suffix}", frames, codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Image.fromarray(frames[0]).save(tmp_path / "good.png")
    assert run_predict(trained, tmp_path, "--output", tmp_path / "out") == 1
    assert re.search(rf"cut.{suffix}: cut off after .* of [24].0 seconds", capsys.readouterr().err)
    assert 5 < len(read_video(tmp_path / "out" / "cut_overlay.mp4")[1]) < 40
    assert (tmp_path / "out" / "good_overlay.png").is_file()


def test_a_damaged_place_costs_some_frames(random, tmp_path):
    frames = [random.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "a.mkv", frames, codec="libx264")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 900] = bytes(900)
    path.write_bytes(content)
    seen = []
    with pytest.raises(UserError, match="damaged in"):
        for frame in video.Video(path):
            seen.append(frame.pts)
    assert 20 < len(seen) <= 40 and seen == sorted(set(seen))


WHITE = [np.full((32, 32, 3), 255, np.uint8)] * 3


def blank_frames(whole, path):
    """Write a video whose head is good and whose frames are all zeros."""
    content = bytearray(whole.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    whole.unlink()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no video at all"),
        lambda path: write_video(path, [], shape=(32, 32)),
        lambda path: write_video(path, [np.zeros((8, 8, 3), np.uint8)]).write_bytes(
            path.read_bytes()[:200]
        ),
        lambda path: blank_frames(
            write_video(path.with_suffix(".mp4"), WHITE, codec="libx264"), path
        ),
    ],
    ids=["empty", "words", "no frames", "header alone", "blank"],
)
def test_a_video_without_a_frame_is_named_and_leaves_nothing(make, trained, tmp_path, capsys):
    make(tmp_path / "a.mkv")
    assert run_predict(trained, tmp_path / "a.mkv", "--output", tmp_path / "out") == 1
    assert "a.mkv: " in capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*"))


def test_a_moving_gif_is_a_video(trained, frames, tmp_path):
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=200)
    assert run_predict(trained, tmp_path / "a.gif", "--output", tmp_path) == 0
    times, _, _ = read_video(tmp_path / "a_overlay.mp4")
    np.testing.assert_allclose(times, 0.2 * np.arange(12), atol=1e-3)


def test_a_camera_is_read_and_one_that_is_not_there_gives_one_line(
    trained, tmp_path, monkeypatch, capsys
):
    picture = "testsrc=size=64x48:rate=10:duration={}"
    monkeypatch.setattr(video, "CAMERAS", {"Linux": ("lavfi", picture)})
    monkeypatch.setattr(video.platform, "system", lambda: "Linux")
    assert run_predict(trained, "camera:2", "--output", tmp_path) == 0
    done = len(read_video(tmp_path / "camera_2_overlay.mp4")[1])
    dropped = re.search(r"camera:2: (\d+) frames came too fast", capsys.readouterr().out)
    assert done + int(dropped[1] if dropped else 0) == 20
    monkeypatch.undo()
    assert run_predict(trained, "camera:98", "--output", tmp_path / "out") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("camera:98: no camera or stream answers there (")


def test_the_newest_frame_is_next_and_older_ones_are_counted():
    """The reader is let go on to 9, then to the end; an error comes last."""
    gates, reached = ({number: threading.Event() for number in (10, 20)} for _ in range(2))

    def frames():
        for number in range(20):
            if number in gates:
                reached[number].set()
                gates[number].wait()
            yield number
        reached[20].set()
        gates[20].wait()
        raise UserError("cut off")

    newest = video.Newest(frames(), seconds=(60, 60))
    seen = iter(newest)
    first = next(seen)
    reached[10].wait()
    last = first if first == 9 else next(seen)
    assert last == 9
    gates[10].set()
    reached[20].wait()
    assert next(seen) == 19
    gates[20].set()
    with pytest.raises(UserError, match="cut off"):
        next(seen)
    assert newest.dropped == 20 - len({first, 9, 19})


def test_a_camera_that_falls_silent_is_given_up(frames, tmp_path, monkeypatch):
    """One line names it, after the frames that came."""
    film = video.Video(write_video(tmp_path / "a.mkv", frames))
    is_over = threading.Event()

    def one_then_nothing():
        yield "a frame"
        is_over.wait()

    monkeypatch.setattr(video.Video, "is_file", False)
    monkeypatch.setattr(video, "SILENT_SECONDS", (60, 0.2))
    monkeypatch.setattr(film, "_frames", one_then_nothing)
    seen = iter(film)
    assert next(seen) == "a frame"
    with pytest.raises(UserError, match=r"no frame for 0\.2 seconds; is it still on"):
        next(seen)
    is_over.set()


def test_what_ends_a_camera_with_an_error_is_not_waited_for():
    newest = video.Newest((1 / place for place in (1, 0)), seconds=(60, 60))
    with pytest.raises(ZeroDivisionError):
        list(newest)


def test_each_nth_frame_is_done_at_its_time(trained, frames, tmp_path):
    film = write_video(tmp_path / "film.mkv", frames)
    assert run_predict(trained, film, "--every", 5, "--output", tmp_path) == 0
    times, _, _ = read_video(tmp_path / "film_overlay.mp4")
    np.testing.assert_allclose(times, [0, 0.5, 1.0], atol=1e-3)


def test_a_stream_is_read_from_its_address(trained, frames, tmp_path):
    """Served by this test, over HTTP."""
    write_video(tmp_path / "live.mkv", frames)
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/live.mkv"
        assert run_predict(trained, address, "--output", tmp_path / "out") == 0
        server.shutdown()
    (written,) = (tmp_path / "out").iterdir()
    assert written.name == f"http_127_0_0_1_{server.server_port}_live_mkv_overlay.mp4"
    assert 0 < len(read_video(written)[1]) <= 12


def test_ctrl_c_leaves_a_video_that_can_be_played(trained, random, tmp_path):
    frames = [random.integers(0, 256, (32, 48, 3), dtype=np.uint8)] * 3000
    film = write_video(tmp_path / "film.mkv", frames)
    command = [sys.executable, HERE / "predict.py", "--run", trained, film]
    command += ["--output", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        partial = tmp_path / "out" / "partial.film_overlay.mp4"
        while process.poll() is None and not (partial.is_file() and partial.stat().st_size):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.stdout.read().decode()
    assert process.returncode == 130 and "Traceback" not in output
    assert 0 < len(read_video(tmp_path / "out" / "film_overlay.mp4")[1]) < 3000
    assert not partial.exists()


@pytest.mark.slow
def test_a_long_video_takes_no_more_memory_than_a_short_one(trained, tmp_path):
    """8 seconds of 720p beside two of it: every frame is there, the peak is the same."""
    scene = scenes.draw_scene("um", 0, shape=(840, 1400)).picture
    places = [round(60 + 60 * np.sin(number / 50)) for number in range(200)]
    peaks = []
    for count in (50, 200):
        path = write_video(
            tmp_path / f"{count}.mp4",
            (scene[place : place + 720, place : place + 1280] for place in places[:count]),
            rate=25,
            codec="libx264",
            shape=(720, 1280),
        )
        script = (
            "import predict, resource, sys; status = predict.main(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
        )
        command = [sys.executable, "-c", script, "--run", trained, path, "--output", tmp_path]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) * 1024)
        with av.open(str(tmp_path / f"{count}_overlay.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.frames, stream.width, stream.height) == (count, 1280, 720)
    assert peaks[1] < peaks[0] + 100e6, peaks


def test_a_raw_stream_without_times_keeps_its_rate(frames, tmp_path):
    """As cameras write them."""
    path = write_video(tmp_path / "a.h264", frames, rate=25, codec="libx264", shape=(30, 44))
    film = video.Video(path)
    times = [float(frame.pts * film.time_base) for frame in film]
    assert film.rate == 25
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=1e-6)


def test_a_second_film_in_a_file_is_told(frames, tmp_path, trained, capsys):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", 10) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 30, 44, "yuv420p"
        for stream in streams:
            for frame in frames[:3]:
                picture = np.ascontiguousarray(frame[:30, :44])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))
    assert run_predict(trained, path, "--output", tmp_path) == 0
    assert "a.mkv: holds 2 videos; the first is done" in capsys.readouterr().out


def test_a_text_is_no_film(trained, tmp_path, capsys):
    """FFmpeg would show its letters."""
    (tmp_path / "notes.txt").write_text("on my way\n" * 99)
    assert run_predict(trained, tmp_path / "notes.txt", "--output", tmp_path / "out") == 1
    assert "notes.txt: neither a picture nor a video" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_film_that_starts_late_is_whole(suffix, frames, tmp_path):
    """As where the sound comes first: its frames begin at 0, and nothing is cut off."""
    even = [np.ascontiguousarray(frame[:30, :44]) for frame in frames]
    times = [700 + 100 * number for number in range(12)]
    path = write_video(tmp_path / f"a.{suffix}", even, codec="libx264", times=times)
    film = video.Video(path)
    found = [float(frame.pts * film.time_base) for frame in film]
    np.testing.assert_allclose(found, np.arange(12) / 10, atol=1e-3)
    assert film.start_seconds == pytest.approx(0.7, abs=1e-3)


def test_a_title_that_is_not_utf_8_is_no_matter(frames, tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Koln"
        stream = container.add_stream("mpeg4", 10)
        stream.height, stream.width, stream.pix_fmt = 30, 44, "yuv420p"
        for frame in (frames[0], None):
            picture = frame if frame is None else av.VideoFrame.from_ndarray(frame[:30, :44].copy())
            container.mux(stream.encode(picture))
    path.write_bytes(path.read_bytes().replace(b"Koln", "Köln".encode("latin-1")))
    assert len(list(video.Video(path))) == 1
