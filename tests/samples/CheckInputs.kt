// Reads {folder, texts, pictures} on stdin; writes the token ids of the texts, and the RGB bytes of
// the pictures and of the bundle's golden ones, in base64.
package com.example.tinyclipedge

import java.io.ByteArrayInputStream
import java.io.File
import java.util.Base64
import javax.imageio.ImageIO
import org.json.JSONArray
import org.json.JSONObject

fun decoded(png: ByteArray): Picture {
    val image = ImageIO.read(ByteArrayInputStream(png))
    return Picture(image.getRGB(0, 0, image.width, image.height, null, 0, image.width), image.width, image.height)
}

fun rgb(png: ByteArray): String {
    val buffer = decoded(png).rgb()
    return Base64.getEncoder().encodeToString(ByteArray(buffer.remaining()).also(buffer::get))
}

fun main() {
    val asked = JSONObject(String(System.`in`.readBytes()))
    val folder = File(asked.getString("folder"))
    fun json(name: String) = JSONObject(folder.resolve(name).readText())
    val manifest = json("manifest.json")
    val tokenizer = Tokenizer(json("tokenizer.json"), manifest)
    val golden = manifest.getJSONObject("golden").getJSONArray("images")
    val pngs = List(golden.length()) { Base64.getDecoder().decode(golden.getJSONObject(it).getString("png")) }
    val texts = asked.getJSONArray("texts")
    val pictures = asked.getJSONArray("pictures")
    val answer = JSONObject()
    answer.put("ids", JSONArray(List(texts.length()) { JSONArray(tokenizer.encode(texts.getString(it))) }))
    answer.put("pixels", JSONArray(List(pictures.length()) { rgb(File(pictures.getString(it)).readBytes()) }))
    answer.put("golden", JSONArray(pngs.map(::rgb)))
    println(answer)
}
