// What Clip.kt uses of onnxruntime's Java API, so that it can be compiled without that package.
package ai.onnxruntime

import java.nio.ByteBuffer
import java.nio.LongBuffer

class OrtEnvironment {
    fun createSession(model: ByteArray): OrtSession = throw NotImplementedError("${model.size}")

    companion object {
        @JvmStatic fun getEnvironment() = OrtEnvironment()
    }
}

class OrtSession : AutoCloseable {
    fun run(inputs: Map<String, OnnxTensor>): Result = throw NotImplementedError("$inputs")

    override fun close() = Unit

    class Result : AutoCloseable {
        fun get(index: Int): OnnxTensor = throw NotImplementedError("$index")

        override fun close() = Unit
    }
}

enum class OnnxJavaType { UINT8 }

class OnnxTensor(val value: Any) : AutoCloseable {
    override fun close() = Unit

    companion object {
        @JvmStatic fun createTensor(environment: OrtEnvironment, data: ByteBuffer, shape: LongArray, type: OnnxJavaType) =
            OnnxTensor(listOf(environment, data, shape, type))

        @JvmStatic fun createTensor(environment: OrtEnvironment, data: LongBuffer, shape: LongArray) = OnnxTensor(Triple(environment, data, shape))
    }
}
