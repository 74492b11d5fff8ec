// Decodes pictures for the shared modules: {data: RGBA bytes, width, height}, upright, on white.
import { AlphaType, ColorType, Skia } from "@shopify/react-native-skia";
import { ImageManipulator, SaveFormat } from "expo-image-manipulator";
import { PageError } from "../web/js/errors.js";

/** Decode a picture that the user chose; the manipulator rotates it according to EXIF. */
export async function decodeUri(uri) {
  const upright = await ImageManipulator.manipulate(uri).renderAsync();
  const { base64 } = await upright.saveAsync({ format: SaveFormat.PNG, base64: true });
  return pixelsOf(Skia.Data.fromBase64(base64), "the picture");
}

/** Decode the bytes of a file, such as a golden picture. */
export async function decode(bytes, name) {
  return pixelsOf(Skia.Data.fromBytes(bytes), name);
}

function pixelsOf(data, name) {
  const image = Skia.Image.MakeImageFromEncoded(data);
  if (!image) throw new PageError(`${name} cannot be decoded`);
  const [width, height] = [image.width(), image.height()];
  const info = { width, height, colorType: ColorType.RGBA_8888, alphaType: AlphaType.Unpremul };
  const pixels = new Uint8ClampedArray(image.readPixels(0, 0, info));
  for (let i = 0; i < pixels.length; i += 4) {
    const alpha = pixels[i + 3];
    for (let c = i; alpha < 255 && c < i + 3; c++) pixels[c] = (pixels[c] * alpha + 255 * (255 - alpha)) / 255;
  }
  return { data: pixels, width, height };
}
