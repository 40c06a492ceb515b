"""Try a network in the browser, on a picture, a video or the camera.

    python demo.py                      the ready network, at http://127.0.0.1:7860
    python demo.py --run RUN            a run, or an exported file
    python demo.py --host 0.0.0.0       for other machines too; there is no password

It needs requirements-demo.txt. Nothing is fetched from elsewhere or sent there; what was given and
answered is deleted at the end.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import predict
from roadseg import terminal
from roadseg.answering.sources import plan_targets
from roadseg.answering.video import Video
from roadseg.command_line import HelpFormatter, add_run, at_least, exit_status
from roadseg.data.pictures import read_image
from roadseg.errors import UserError, refuse_missing
from roadseg.stopping import Stopping

USUAL_SHAPES = ((480, 640), (375, 1242))  # answered once before: the first answer is slow
# The browser itself refuses to load what this server does not send.
ONLY_FROM_HERE = """<meta http-equiv="Content-Security-Policy"
    content="default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:">"""


def grey_to_watch(*seen):
    """Return the probability in RGB, which every browser shows as a video."""
    return np.repeat(predict.grey_probability(*seen)[..., None], 3, axis=-1)


SHOWN = {
    "overlay": predict.KINDS["overlay"],
    "probability": predict.Kind(grey_to_watch, lossless=False),
}


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        description="Try a network in the browser.", formatter_class=HelpFormatter
    )
    add_run(parser, or_file=True)
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at")
    add("--port", default=7860, type=at_least(1), metavar="N", help="to listen at")
    return parser.parse_args(arguments)


class WatchedVideo(Video):
    """A video whose reading is followed on the page."""

    def __iter__(self):
        from gradio import Progress

        yield from Progress().tqdm(super().__iter__(), total=self.expected or None, unit="frames")


def answer_picture(finder, path, folder):
    """Return (overlay, probability, line about time) of a picture's file."""
    started = time.perf_counter()
    ((_, *seen),) = finder.answer([path], read_image)
    made = [kind.make(*seen, finder.data_set) for kind in SHOWN.values()]
    return *made, f"{time.perf_counter() - started:.2f} s"


def answer_video(finder, path, folder):
    """Return (path of the overlay's video, the probability's, lines about time and faults)."""
    source, faults = WatchedVideo(path, "road"), []
    output = Path(tempfile.mkdtemp(dir=folder))
    targets = plan_targets([source], output, dict.fromkeys(SHOWN, False))
    count, seconds = predict.answer_sources(finder, targets, SHOWN, faults.append, Stopping())
    if not count:
        raise faults[0]
    done = terminal.counted(count, "frame")
    lines = [f"{done} in {seconds:.1f} s, {count / seconds:.1f} a second", *faults]
    return *targets[source].values(), "\n".join(map(str, lines)).replace(path, Path(path).name)


def build_page(finder, folder):
    """Build the page: gradio.Blocks. folder: gets the videos that are made."""
    import gradio as gr

    def add_tab(title, kind, sources, answer):
        with gr.Tab(title):
            given = kind(sources=sources, show_label=False, height=320, buttons=[])
            given.preprocess = lambda payload: payload and payload.path  # this program reads it
            seconds = gr.Textbox(label="time")
            with gr.Row():
                shown = [
                    kind(label=name, interactive=False, buttons=["download"]) for name in SHOWN
                ]

        def event(path):
            try:
                return answer(finder, path, folder) if path else (None, None, "")
            except UserError as error:
                line = str(error).replace(path, Path(path).name)
                raise gr.Error(line, print_exception=False) from None

        outputs, api = [*shown, seconds], {"api_name": answer.__name__, "api_visibility": "public"}
        answered = given.input(event, given, outputs, concurrency_id="network", **api)
        answered.failure(lambda: (None, None, ""), None, outputs, api_visibility="private")

    with gr.Blocks(title="Find the road", analytics_enabled=False) as page:
        add_tab("Picture or camera", gr.Image, ["upload", "webcam", "clipboard"], answer_picture)
        add_tab("Video", gr.Video, ["upload", "webcam"], answer_video)
    return page


def launch(page, host, port):
    """Serve the page, by this machine alone. Raises UserError if the address is taken."""
    from gradio import themes

    theme = themes.Default(font=("system-ui", "sans-serif"), font_mono=("monospace",))
    looks = {"theme": theme, "head": ONLY_FROM_HERE, "footer_links": [], "quiet": True}
    here = {"server_name": host, "server_port": port, "share": False, "ssr_mode": False}
    try:
        page.launch(prevent_thread_lock=True, **looks, **here)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"http://{host}:{port}: is taken, or no address of this machine; give another --port "
            "or --host"
        ) from error
    terminal.say(f"http://{host}:{port}")


def serve(arguments, stopping):
    """Show the page until Ctrl-C."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    refuse_missing(("gradio",), "requirements-demo.txt")
    finder = predict.load(arguments.run)
    for shape in USUAL_SHAPES:
        finder(np.zeros((*shape, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder, stopping.removing(folder):
        os.environ["GRADIO_TEMP_DIR"] = folder  # of what is given and shown
        page = build_page(finder, folder)
        launch(page, arguments.host, arguments.port)
        page.block_thread()


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda stopping: serve(parse_arguments(arguments), stopping))


if __name__ == "__main__":
    sys.exit(main())
