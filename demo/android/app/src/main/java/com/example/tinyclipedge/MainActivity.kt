package com.example.tinyclipedge

import android.app.Activity
import android.content.Intent
import android.graphics.ImageDecoder
import android.os.Bundle
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import java.nio.ByteBuffer
import java.util.concurrent.Executors

private const val CHOOSE = 1
private const val LEAST_COSINE = 0.999

class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()
    private val status by lazy { TextView(this) }
    private val labels by lazy { EditText(this).apply { setText("bicycle, cat face, rocket, umbrella") } }
    private val shown by lazy { ImageView(this).apply { adjustViewBounds = true } }
    private var clip: Clip? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val choose = Button(this).apply { text = "Choose a picture"; setOnClickListener { choosePicture() } }
        val column = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL; setPadding(32, 96, 32, 32) }
        listOf(labels, choose, status, shown).forEach(column::addView)
        setContentView(ScrollView(this).apply { addView(column) })
        inBackground {
            val opened = Clip { name -> assets.open("bundle/$name").use { it.readBytes() } }
            val cosine = opened.replay { decode(ImageDecoder.createSource(ByteBuffer.wrap(it))) }
            check(cosine >= LEAST_COSINE) { "this device gives other results than recorded: cosine $cosine" }
            clip = opened
            "Golden vectors agree (cosine %.5f).".format(cosine)
        }
    }

    override fun onDestroy() {
        worker.execute { clip?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun choosePicture() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")
        startActivityForResult(intent, CHOOSE)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        super.onActivityResult(request, result, data)
        val address = data?.data ?: return
        shown.setImageURI(address)
        val names = labels.text.split(",").map { it.trim() }.filter { it.isNotEmpty() }
        inBackground {
            val model = checkNotNull(clip) { "the bundle is not open" }
            val rows = model.classify(decode(ImageDecoder.createSource(contentResolver, address)), names)
            rows.joinToString("\n") { (label, chance) -> "%.1f %%  %s".format(100 * chance, label) }
        }
    }

    /** Decode upright, into memory that the CPU can read. */
    private fun decode(source: ImageDecoder.Source): Picture {
        val bitmap = ImageDecoder.decodeBitmap(source) { decoder, _, _ -> decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE }
        val pixels = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        return Picture(pixels, bitmap.width, bitmap.height)
    }

    /** Run work that returns a line to show; an error is shown instead. */
    private fun inBackground(work: () -> String) = worker.execute {
        val line = runCatching(work).getOrElse { it.message ?: it.toString() }
        runOnUiThread { status.text = line }
    }
}
