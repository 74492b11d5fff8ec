import * as ImagePicker from "expo-image-picker";
import * as ort from "onnxruntime-react-native";
import { useEffect, useRef, useState } from "react";
import { Button, Image, SafeAreaView, ScrollView, StyleSheet, Text, TextInput } from "react-native";
import { deviceSource } from "./bundle";
import { classify, openModel } from "./model";
import { decode, decodeUri } from "./picture";

const ADDRESS = "http://10.0.2.2:7860/bundle/"; // the computer, as Android's emulator sees it
const FIRST_LABELS = "bicycle, cat face, rocket, umbrella";

export default function App() {
  const [address, setAddress] = useState(ADDRESS);
  const [labels, setLabels] = useState(FIRST_LABELS);
  const [status, setStatus] = useState("No bundle is open.");
  const [picture, setPicture] = useState(null); // its address
  const [rows, setRows] = useState([]);
  const model = useRef(null);
  useEffect(() => () => void model.current?.release(), []);

  /** Show any error as one line. */
  const guarded = (step) => async () => {
    try {
      await step();
    } catch (error) {
      setStatus(String(error.message ?? error).split("\n")[0]);
    }
  };

  async function open() {
    setStatus("Opening the bundle…");
    await model.current?.release();
    model.current = null;
    const progress = (name, bytes) => setStatus(`${name}: ${(bytes / 1e6).toFixed(1)} MB`);
    const opened = await openModel({ source: deviceSource(address), ort, backend: "cpu", decode, progress });
    model.current = opened.clip;
    const { image, text, imageMs } = opened.result;
    const least = Math.min(image, text).toFixed(5);
    setStatus(`Golden vectors agree (cosine ${least}); ${imageMs.toFixed(1)} ms an image.`);
  }

  async function choose() {
    const chosen = await ImagePicker.launchImageLibraryAsync({ mediaTypes: ["images"] });
    if (chosen.canceled) return;
    setPicture(chosen.assets[0].uri);
    await answer(chosen.assets[0].uri);
  }

  async function answer(uri) {
    if (!model.current) return setStatus("Open a bundle first.");
    const names = labels.split(",").map((label) => label.trim()).filter(Boolean);
    if (names.length) setRows(await classify(model.current, await decodeUri(uri), names));
  }

  return (
    <SafeAreaView style={styles.page}>
      <ScrollView contentContainerStyle={styles.content} keyboardShouldPersistTaps="handled">
        <TextInput style={styles.input} value={address} onChangeText={setAddress} autoCapitalize="none" />
        <Button title="Open the bundle" onPress={guarded(open)} />
        <Text style={styles.text}>{status}</Text>
        <TextInput style={styles.input} value={labels} onChangeText={setLabels} multiline />
        <Button title="Choose a picture" onPress={guarded(choose)} />
        {picture && <Button title="Once more" onPress={guarded(() => answer(picture))} />}
        {picture && <Image source={{ uri: picture }} style={styles.picture} resizeMode="contain" />}
        {rows.map(({ label, chance }) => (
          <Text key={label} style={styles.text}>{`${(100 * chance).toFixed(1)} %  ${label}`}</Text>
        ))}
      </ScrollView>
    </SafeAreaView>
  );
}

const styles = StyleSheet.create({
  page: { flex: 1, backgroundColor: "#fff" },
  content: { padding: 16, gap: 12 },
  input: { borderWidth: 1, borderColor: "#888", borderRadius: 6, padding: 8, color: "#111" },
  text: { fontSize: 16, color: "#111" },
  picture: { width: "100%", height: 240 },
});
