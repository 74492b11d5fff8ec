plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

// ./gradlew installDebug -Pbundle=/path/to/a/bundle
val bundle = providers.gradleProperty("bundle").orElse("../../../bundles/first")
val copyBundle by tasks.registering(Sync::class) {
    from(bundle)
    into(layout.buildDirectory.dir("bundle/bundle"))
}

android {
    namespace = "com.example.tinyclipedge"
    compileSdk = 36
    defaultConfig {
        applicationId = "com.example.tinyclipedge"
        minSdk = 28
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    sourceSets["main"].assets.srcDir(layout.buildDirectory.dir("bundle"))
}

kotlin { jvmToolchain(17) }

tasks.named("preBuild") { dependsOn(copyBundle) }

dependencies { implementation("com.microsoft.onnxruntime:onnxruntime-android:1.24.3") }
