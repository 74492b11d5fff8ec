package com.example.tinyclipedge

import java.text.Normalizer
import java.util.Locale
import org.json.JSONArray
import org.json.JSONObject

private const val WORDS = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"

// As open_clip matches them, ignoring case: a long s counts as an s, and U+0345 is dropped.
private val WORD = Regex("'[sſ]|" + WORDS.substring(3).replace("{N}]+", "{N}\u0345]+"))
private val BLANKS = Regex("[\\s\\p{Z}\u001c-\u001f\u0085]+")

/** CLIP's byte-pair tokenizer of a bundle. */
class Tokenizer(file: JSONObject, manifest: JSONObject) {
    private val vocabulary = HashMap<String, Int>()
    private val ranks = HashMap<String, Int>()
    private val context = manifest.getInt("context_length")
    private val suffix: String
    private val start: Int
    private val end = manifest.getInt("eot_token_id")
    private val unknown: Int?
    private val letters: List<Char>

    init {
        val model = file.getJSONObject("model")
        val split = file.getJSONObject("pre_tokenizer").optJSONArray("pretokenizers")?.optJSONObject(0)
        require(split?.optJSONObject("pattern")?.optString("Regex") == WORDS && manifest.getJSONObject("tokenizer").length() == 0) {
            "the bundle's tokenizer is not CLIP's: use EdgeCLIP in Python"
        }
        suffix = model.getString("end_of_word_suffix")
        val table = model.getJSONObject("vocab")
        for (piece in table.keys()) vocabulary[piece.toString()] = table.getInt(piece.toString())
        val merges = model.getJSONArray("merges")
        for (rank in 0 until merges.length()) {
            val pair = merges.get(rank)
            ranks[if (pair is JSONArray) "${pair.getString(0)} ${pair.getString(1)}" else pair as String] = rank
        }
        val added = file.getJSONArray("added_tokens")
        for (i in 0 until added.length()) added.getJSONObject(i).let { vocabulary[it.getString("content")] = it.getInt("id") }
        start = requireNotNull(vocabulary["<|startoftext|>"] ?: vocabulary["<start_of_text>"]) { "the tokenizer has no start token" }
        unknown = if (model.isNull("unk_token")) null else vocabulary[model.getString("unk_token")]
        // GPT-2's printable characters for the 256 bytes.
        var next = 256
        letters = List(256) { if (it in 33..126 || it in 161..172 || it >= 174) it.toChar() else (next++).toChar() }
    }

    /** Token ids of a text, truncated to the context; the end token is kept. */
    fun encode(text: String): List<Int> {
        val ids = WORD.findAll(clean(text)).flatMap { pieces(it.value) }.take(context - 2).toList()
        return listOf(start) + ids + end
    }

    private fun clean(text: String): String {
        val straight = Normalizer.normalize(text, Normalizer.Form.NFC).replace(Regex("[‘’]"), "'").replace(Regex("[“”]"), "\"")
        return straight.replace(BLANKS, " ").trim(' ').lowercase(Locale.ROOT)
    }

    /** Merge the pair of lowest rank, leftmost first, until none remains. */
    private fun pieces(word: String): List<Int> {
        val parts = word.toByteArray().map { letters[it.toInt() and 255].toString() }.toMutableList()
        parts[parts.lastIndex] += suffix
        while (true) {
            val best = parts.zipWithNext { a, b -> ranks["$a $b"] ?: Int.MAX_VALUE }.withIndex().minByOrNull { it.value }
            if (best == null || best.value == Int.MAX_VALUE) break
            parts[best.index] += parts.removeAt(best.index + 1)
        }
        return parts.mapNotNull { vocabulary[it] ?: unknown }
    }
}
