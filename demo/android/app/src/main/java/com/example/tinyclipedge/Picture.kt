package com.example.tinyclipedge

import java.nio.ByteBuffer
import kotlin.math.max
import kotlin.math.min

private const val MOST_ASPECT = 1000L

/** A decoded picture: ARGB pixels, row by row, upright. */
class Picture(private val pixels: IntArray, val width: Int, val height: Int) {
    init {
        val (long, short) = max(width, height).toLong() to min(width, height)
        require(short > 0 && long <= MOST_ASPECT * short) { "the picture is too long and thin" }
    }

    /** RGB bytes [height, width, 3], transparency on white. */
    fun rgb(): ByteBuffer {
        val bytes = ByteBuffer.allocateDirect(3 * pixels.size)
        for (pixel in pixels) for (shift in intArrayOf(16, 8, 0)) {
            val alpha = pixel ushr 24
            bytes.put((((pixel shr shift and 255) * alpha + 255 * (255 - alpha) + 127) / 255).toByte())
        }
        bytes.rewind()
        return bytes
    }
}
