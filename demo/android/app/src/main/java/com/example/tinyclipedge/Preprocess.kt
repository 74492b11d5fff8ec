package com.example.tinyclipedge

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import org.json.JSONObject

private const val BITS = 22
private const val MOST_PIXELS = 89478485L

/** A decoded picture: ARGB pixels, row by row, upright. */
class Picture(val pixels: IntArray, val width: Int, val height: Int)

/** Resize, crop and normalise as preprocessor_config.json says, to the byte as Pillow does. */
class Preprocess(config: JSONObject) {
    val size: Int
    private val squash: Boolean
    private val cubic = config.getInt("resample") == 3
    private val levels: List<FloatArray>

    init {
        val resize = config.get("size")
        val target = if (config.optBoolean("do_center_crop", true)) config.get("crop_size") else resize
        size = if (target is JSONObject) target.optInt("height", target.optInt("shortest_edge")) else target as Int
        val shortest = resize !is JSONObject || resize.has("shortest_edge")
        val mode = config.optString("resize_mode").ifEmpty { if (shortest) "shortest" else "squash" }
        require(size > 0 && mode in listOf("shortest", "squash")) { "preprocessor_config.json: size $size, resize_mode $mode" }
        squash = mode == "squash"
        val (means, stds) = listOf("image_mean", "image_std").map { config.getJSONArray(it) }
        levels = List(3) { channel ->
            val (mean, std) = means.getDouble(channel).toFloat() to stds.getDouble(channel).toFloat()
            FloatArray(256) { ((it / 255.0).toFloat() - mean) / std }
        }
    }

    /** Float32 [3, size, size] of a picture, transparency on white. */
    fun floats(picture: Picture): FloatArray {
        val (width, height) = picture.width to picture.height
        var wide = size
        var high = size
        if (!squash && width <= height) high = (size.toDouble() * height / width).toInt()
        else if (!squash) wide = (size.toDouble() * width / height).toInt()
        require(wide.toLong() * high <= MOST_PIXELS) { "the picture is too long and thin" }
        var rgb = onWhite(picture.pixels)
        val thin = height > 100L * width && high < height // where Pillow resizes columns first
        if (thin) rgb = resized(rgb, 1, height, high, 3 * width)
        rgb = resized(rgb, if (thin) high else height, width, wide, 3)
        if (!thin) rgb = resized(rgb, 1, height, high, 3 * wide)
        val left = Math.rint((wide - size) / 2.0).toInt()
        val top = Math.rint((high - size) / 2.0).toInt()
        return FloatArray(3 * size * size) {
            val (channel, y, x) = Triple(it / (size * size), it / size % size, it % size)
            levels[channel][rgb[3 * ((y + top) * wide + x + left) + channel].toInt() and 255]
        }
    }

    private fun onWhite(pixels: IntArray) = ByteArray(3 * pixels.size) {
        val pixel = pixels[it / 3]
        val alpha = pixel ushr 24
        (((pixel shr (16 - 8 * (it % 3)) and 255) * alpha + 255 * (255 - alpha) + 127) / 255).toByte()
    }

    /** Resize the middle axis of bytes [outer, n, inner]. */
    private fun resized(bytes: ByteArray, outer: Int, n: Int, to: Int, inner: Int): ByteArray {
        if (n == to) return bytes
        val scale = n.toDouble() / to
        val stretch = max(scale, 1.0)
        val reach = (if (cubic) 2 else 1) * stretch
        val out = ByteArray(outer * to * inner)
        for (i in 0 until to) {
            val centre = (i + 0.5) * scale
            val first = max(0, (centre - reach + 0.5).toInt())
            val raw = DoubleArray(min(n, (centre + reach + 0.5).toInt()) - first) { weight((it + first - centre + 0.5) * (1 / stretch)) }
            val sum = raw.sum()
            val factors = LongArray(raw.size) {
                val value = (if (sum == 0.0) raw[it] else raw[it] / sum) * (1 shl BITS)
                (value + if (value < 0) -0.5 else 0.5).toLong()
            }
            for (o in 0 until outer) for (x in 0 until inner) {
                var total = 1L shl (BITS - 1)
                for (j in factors.indices) total += (bytes[(o * n + first + j) * inner + x].toInt() and 255) * factors[j]
                out[(o * to + i) * inner + x] = (total shr BITS).coerceIn(0, 255).toByte()
            }
        }
        return out
    }

    private fun weight(at: Double): Double {
        val x = abs(at)
        if (!cubic) return max(0.0, 1 - x)
        if (x < 1) return (1.5 * x - 2.5) * x * x + 1
        return if (x < 2) (((x - 5) * x + 8) * x - 4) * -0.5 else 0.0
    }
}
