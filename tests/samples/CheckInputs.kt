// Reads {folder, texts, pictures} on stdin; writes the token ids of the texts and the hashes of the
// pictures' pixels, of each and of the bundle's golden ones.
package com.example.tinyclipedge

import java.io.ByteArrayInputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import java.util.Base64
import javax.imageio.ImageIO
import org.json.JSONArray
import org.json.JSONObject

fun decoded(png: ByteArray): Picture {
    val image = ImageIO.read(ByteArrayInputStream(png))
    return Picture(image.getRGB(0, 0, image.width, image.height, null, 0, image.width), image.width, image.height)
}

fun hash(floats: FloatArray): String {
    val bytes = ByteBuffer.allocate(4 * floats.size).order(ByteOrder.LITTLE_ENDIAN)
    floats.forEach(bytes::putFloat)
    return MessageDigest.getInstance("SHA-256").digest(bytes.array()).joinToString("") { "%02x".format(it) }
}

fun main() {
    val asked = JSONObject(String(System.`in`.readBytes()))
    val folder = File(asked.getString("folder"))
    fun json(name: String) = JSONObject(folder.resolve(name).readText())
    val manifest = json("manifest.json")
    val tokenizer = Tokenizer(json("tokenizer.json"), manifest)
    val preprocess = Preprocess(json("preprocessor_config.json"))
    val golden = manifest.getJSONObject("golden").getJSONArray("images")
    val pngs = List(golden.length()) { Base64.getDecoder().decode(golden.getJSONObject(it).getString("png")) }
    val texts = asked.getJSONArray("texts")
    val pictures = asked.getJSONArray("pictures")
    val answer = JSONObject()
    answer.put("ids", JSONArray(List(texts.length()) { JSONArray(tokenizer.encode(texts.getString(it))) }))
    answer.put("pixels", JSONArray(List(pictures.length()) { hash(preprocess.floats(decoded(File(pictures.getString(it)).readBytes()))) }))
    answer.put("golden", JSONArray(pngs.map { hash(preprocess.floats(decoded(it))) }))
    println(answer)
}
