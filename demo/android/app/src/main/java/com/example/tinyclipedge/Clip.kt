package com.example.tinyclipedge

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.LongBuffer
import java.security.MessageDigest
import java.util.Base64
import kotlin.math.exp
import kotlin.math.sqrt
import org.json.JSONObject

/** A bundle from `export --embed-preprocessing` in its default precision; `read` returns one of its files. */
class Clip(private val read: (String) -> ByteArray) : AutoCloseable {
    private val manifest = JSONObject(String(read("manifest.json")))
    private val precision = manifest.getString("default_precision")
    private val tokenizer = Tokenizer(JSONObject(String(checked("tokenizer.json"))), manifest)
    private val environment = OrtEnvironment.getEnvironment()
    private val image = graph(section("extras", "uint8", "files"))
    private val text = graph(section("towers", "text"))

    /** The bytes of a file, after a check of its hash against the manifest. */
    private fun checked(name: String): ByteArray {
        val bytes = read(name)
        val hash = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }
        require(hash == manifest.getJSONObject("files").getJSONObject(name).getString("sha256")) { "$name has changed" }
        return bytes
    }

    private fun section(vararg names: String): JSONObject = names.fold(manifest) { table, name ->
        requireNotNull(table.optJSONObject(name)) { "the manifest has no \"$name\": use export --embed-preprocessing" }
    }

    private fun graph(files: JSONObject): OrtSession = environment.createSession(checked(files.getString(precision)))

    fun encodeImage(picture: Picture): FloatArray {
        val shape = longArrayOf(picture.height.toLong(), picture.width.toLong(), 3)
        return OnnxTensor.createTensor(environment, picture.rgb(), shape, OnnxJavaType.UINT8).use { run(image, "image", it) }
    }

    fun encodeText(text: String): FloatArray = encodeIds(tokenizer.encode(text))

    private fun encodeIds(ids: List<Int>): FloatArray {
        val inputs = manifest.optJSONObject("inputs") ?: JSONObject()
        val missing = if (inputs.optString("padding") == "max_length") manifest.getInt("context_length") - ids.size else 0
        val padded = ids + List(missing) { inputs.getInt("pad_id") }
        val data = LongBuffer.wrap(LongArray(padded.size) { padded[it].toLong() })
        return OnnxTensor.createTensor(environment, data, longArrayOf(1, padded.size.toLong())).use { run(text, "input_ids", it) }
    }

    /** One output row, unit norm. */
    private fun run(tower: OrtSession, input: String, tensor: OnnxTensor): FloatArray =
        tower.run(mapOf(input to tensor)).use { result ->
            @Suppress("UNCHECKED_CAST") val row = (result.get(0).value as Array<FloatArray>)[0]
            val norm = sqrt(row.sumOf { it.toDouble() * it })
            require(norm > 0 && norm.isFinite()) { "an embedding is not finite or is zero" }
            FloatArray(row.size) { (row[it] / norm).toFloat() }
        }

    /** Labels with their probabilities, best first. */
    fun classify(picture: Picture, labels: List<String>): List<Pair<String, Double>> {
        val embedding = encodeImage(picture)
        val scores = labels.map { manifest.getDouble("logit_scale") * dot(encodeText(it), embedding) }
        if (!manifest.isNull("logit_bias")) {
            val bias = manifest.getDouble("logit_bias")
            return labels.zip(scores.map { 1 / (1 + exp(-it - bias)) }).sortedByDescending { it.second }
        }
        val weights = scores.map { exp(it - scores.max()) }
        return labels.zip(weights.map { it / weights.sum() }).sortedByDescending { it.second }
    }

    /** The lowest cosine to the golden vectors; `decode` turns a PNG into a picture. */
    fun replay(decode: (ByteArray) -> Picture): Double {
        val golden = manifest.getJSONObject("golden")
        val rows = golden.getJSONObject("embeddings").getJSONObject(precision)
        val images = golden.getJSONArray("images")
        val texts = golden.getJSONArray("texts")
        val ofImages = List(images.length()) { encodeImage(decode(base64(images.getJSONObject(it).getString("png")))) }
        val ofTexts = List(texts.length()) { encodeText(texts.getJSONObject(it).getString("text")) }
        return minOf(least(ofImages, rows.getString("image")), least(ofTexts, rows.getString("text")))
    }

    private fun least(rows: List<FloatArray>, recorded: String): Double {
        val all = java.nio.ByteBuffer.wrap(base64(recorded)).order(java.nio.ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return rows.minOf { row -> dot(row, FloatArray(row.size).also { all.get(it) }) }
    }

    private fun base64(text: String): ByteArray = Base64.getDecoder().decode(text)

    private fun dot(a: FloatArray, b: FloatArray): Double = a.indices.sumOf { a[it].toDouble() * b[it] }

    override fun close() {
        image.close()
        text.close()
    }
}
