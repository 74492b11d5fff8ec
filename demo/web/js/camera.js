// The camera as a series of frames: each one is taken when the previous one has been processed.
import { PageError } from "./errors.js";

const REASONS = {
  NotAllowedError: "access to the camera was denied: allow it in the browser's address bar",
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
      throw new PageError("browsers allow the camera only on pages served over https or from this machine");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { width: { ideal: 640 }, facingMode: "environment" },
      });
    } catch (error) {
      throw new PageError(REASONS[error.name] ?? `the camera cannot be started: ${error.message}`);
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
