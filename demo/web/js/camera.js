// The camera as a run of frames: the next one is taken when the last one has been answered.
import { PageError } from "./errors.js";

const REASONS = {
  NotAllowedError: "the camera was not allowed: allow it in the browser's address bar",
  NotFoundError: "no camera was found",
  NotReadableError: "the camera is in use by another program",
};

export class Camera {
  /** `onFrame(bitmap)` is awaited before the next frame is taken. */
  constructor(video, onFrame) {
    this.video = video;
    this.onFrame = onFrame;
    this.stream = null;
  }

  get running() {
    return this.stream !== null;
  }

  async start() {
    if (!navigator.mediaDevices) {
      throw new PageError("browsers give the camera only to pages on https or on this machine");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { width: { ideal: 640 }, facingMode: "environment" },
      });
    } catch (error) {
      throw new PageError(REASONS[error.name] ?? `the camera does not start: ${error.message}`);
    }
    this.video.srcObject = this.stream;
    await this.video.play();
    this.#run(this.stream);
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  async #run(stream) {
    while (this.stream === stream) {
      if (!document.hidden && this.video.videoWidth) await this.onFrame(await createImageBitmap(this.video));
      await new Promise((resolve) => setTimeout(resolve, document.hidden ? 250 : 0));
    }
  }
}
